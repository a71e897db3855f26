"""Similarity of versions, and which of them are accepted."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from support.stage_tables import reasons, table

from ray_pipeline.core.rows import set_column
from ray_pipeline.engine.segments import apply_map
from ray_pipeline.stages.questions.accept import AcceptParaphrases
from ray_pipeline.stages.questions.similarity import ParaphraseSimilarity

SOURCE = ("Who wrote the novel Emma in 1815?", "Jane Austen")


def family(*versions, source=SOURCE, similarity=0.9, **columns):
    """An original and versions of it: (version, question) or (version, question, answer)."""
    texts = [(v[1], v[2] if len(v) > 2 else source[1]) for v in versions]
    rows = table(
        [source, *texts],
        version=["original", *(v[0] for v in versions)],
        source_question=[None] + [source[0]] * len(texts),
        source_answer=[None] + [source[1]] * len(texts),
        **{name: [None, *values] for name, values in columns.items()},
    )
    parents = pa.array([None] + ["row0"] * len(texts), pa.string())
    values = [None, *(similarity if isinstance(similarity, list) else [similarity] * len(texts))]
    return set_column(
        set_column(rows, "parent_id", parents), "similarity", pa.array(values, pa.float32())
    )


def judged(*versions, config=None, **options):
    found = reasons(
        AcceptParaphrases().bound(config).apply(family(*versions, **options), Counter())
    )
    assert found[0] is None
    return found[1:]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Which author wrote the novel Emma in 1815?", None),
        ("", "paraphrase:empty"),
        (" \n", "paraphrase:empty"),
        ("I'm sorry, I can't rephrase that.", "paraphrase:refusal: question"),
        ("Sure thing, who wrote Emma?", "paraphrase:chatter: question"),
        ("who wrote the novel 'Emma' in 1815", "paraphrase:copy"),
        ("The novel of 1815 was by a woman.", "paraphrase:not_a_question"),
        ("In 1815, who?", "paraphrase:too_short: question of 13 characters for 33"),
        ("Who, in 1815, " + "on earth " * 9 + "?", "paraphrase:too_long: question of 96 "),
        ("Did Jane Austen write Emma in 1815?", "paraphrase:gives_answer"),
        ("Which author wrote the novel Emma in 1816?", "paraphrase:numbers: question"),
    ],
)
def test_what_is_wrong_with_a_paraphrase(question, reason):
    [found] = judged(("formal", question))
    assert found == reason if reason is None else found.startswith(reason)


def test_an_answer_that_was_paraphrased_is_judged_too():
    source = ("Why does it rain?", "Water rises as vapour and falls again when it has cooled.")
    good = "Vapour rises, cools and falls as water again."
    assert judged(("formal", "What makes it rain?", good), source=source) == [None]
    for answer, reason in [
        ("", "paraphrase:empty"),
        ("I cannot say", "paraphrase:refusal: answer"),
        ("Water.", "paraphrase:too_short: answer of 6 characters for 57"),
        ("Water rises as vapour and falls in 2 hours.", "paraphrase:numbers: answer"),
    ]:
        assert judged(("formal", "What makes it rain?", answer), source=source) == [reason]


def test_answers_that_only_say_yes_give_nothing_away():
    source = ("Are snakes deaf animals?", "Yes")
    assert judged(("formal", "Yes or no: are all snakes deaf?"), source=source) == [None]


def test_meaning_is_a_threshold():
    version = ("formal", "Which author wrote the novel Emma in 1815?")
    assert judged(version, similarity=0.6) == ["paraphrase:meaning: 0.60 < 0.75"]
    assert judged(version, similarity=0.6, config=AcceptParaphrases.Config(min_similarity=0.5)) == [
        None
    ]
    assert judged(version, similarity=[None]) == ["paraphrase:meaning: unknown"]


def test_versions_with_typing_errors_may_differ_by_a_letter_only():
    assert judged(("typos", "Who wrote teh novel Emma in 1815?"), similarity=0.5) == [None]
    assert judged(("typos", SOURCE[0])) == ["paraphrase:copy"]
    assert judged(("typos", "Who wrote the novel Emma in 1815"), similarity=0.99) == [None]


def test_a_version_that_says_what_an_earlier_one_says_is_dropped():
    same = "Which author wrote the novel Emma in 1815?"
    found = judged(("formal", same), ("casual", same.upper()), ("general", "x" + same))
    assert found == [None, "paraphrase:repeats_version", None]
    # A version that was not accepted itself takes no other's place.
    found = judged(("formal", same), ("casual", same), similarity=[0.1, 0.9])
    assert found == ["paraphrase:meaning: 0.10 < 0.75", None]


def test_what_the_model_left_unusable_is_dropped_by_its_code():
    found = judged(("formal", "Which author wrote Emma"), paraphrase_error=["length"])
    assert found == ["paraphrase:length"]


def test_counts_tell_versions_apart():
    counts: Counter[str] = Counter()
    rows = family(("formal", "Which author wrote the novel Emma in 1815?"), ("casual", ""))
    AcceptParaphrases().bound().apply(rows, counts)
    assert counts == {"original": 1, "formal accepted": 1, "casual empty": 1}


def test_the_export_keeps_families_together():
    rows = family(("formal", "Which author wrote the novel Emma in 1815?"), ("casual", ""))
    other = set_column(
        table([("q", "a")], version=["original"], source_question=[None], source_answer=[None]),
        "similarity",
        pa.nulls(1, pa.float32()),
    )
    other = set_column(other, "row_id", pa.array(["other"]))
    mixed = pa.concat_tables([rows.slice(0, 1), other, rows.slice(1)], promote_options="default")
    stage = AcceptParaphrases().bound()
    exported = stage.exported(stage.apply(mixed, Counter()))
    assert exported.column_names == ["original_id", "version", "question", "answer", "similarity"]
    assert exported["original_id"].to_pylist() == ["row0", "row0", "other"]
    assert exported["version"].to_pylist() == ["original", "formal", "original"]


class FakeEmbedder:
    """Vectors by hand: the angle in degrees that a text names."""

    def encode(self, texts):
        angles = np.array([float(text) for text in texts])
        return np.stack([np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], 1)


def test_similarity_is_of_the_question_and_of_the_worse_half():
    stage = ParaphraseSimilarity().bound()
    stage._embedder = FakeEmbedder()
    rows = family(
        ("formal", "60"), ("casual", "0", "90"), ("general", "60", "0"), ("typos", "nan"),
        source=("0", "0"),
    ).drop_columns(["similarity"])  # fmt: skip
    out = apply_map(stage, rows, Counter())
    assert out["similarity"].type == pa.float32()
    assert out["similarity"].to_pylist() == [None, 0.5, 0.0, 0.5, None]
    assert out["status"].to_pylist() == ["kept"] * 4 + ["failed"]
    assert out["reason"].to_pylist()[4] == "embedding:not_finite"
    originals = apply_map(stage, rows.slice(0, 1), Counter())
    assert originals["similarity"].to_pylist() == [None]
