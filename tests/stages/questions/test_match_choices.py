from collections import Counter

import numpy as np
import pytest
from support.stage_tables import reasons, table

from ray_pipeline.stage import Settings
from ray_pipeline.stages.questions.match_choices import MatchChoices

CITIES = "Which city? (A) London (B) Paris (C) Rome"


class NoEmbedder(MatchChoices):
    """Fails when a text is embedded."""

    def _embed(self, texts: list[str]) -> dict[str, np.ndarray]:
        raise AssertionError(f"embedded {texts}")


class TableEmbedder(MatchChoices):
    """Embeds from a table, so that cosines are known exactly."""

    vectors = {
        "London": (1, 0, 0),
        "Paris": (0, 1, 0),
        "Rome": (0, 0.8, 0.6),
        "the French capital": (0, 0.9965, 0.0837),
        "somewhere between": (0, 0.9487, 0.3162),
        "a cheese": (0.6, -0.8, 0),
        "no": (0.59, 0, -0.8074),
    }

    def _embed(self, texts: list[str]) -> dict[str, np.ndarray]:
        return {text: np.array(self.vectors[text], dtype=np.float32) for text in texts}


def apply(stage, pairs):
    stage.load()
    counts: Counter[str] = Counter()
    result = stage.apply(table(pairs), counts)
    return result, +counts


def test_letters_texts_and_spellings_need_no_embedder():
    result, counts = apply(
        NoEmbedder().bound(),
        [
            (CITIES, "B"),
            (CITIES, "paris."),
            (CITIES, "Rome"),
            (CITIES, "Londn"),
            ("What is it?", "A"),
        ],
    )
    assert result["answer"].to_pylist() == ["Paris", "Paris", "Rome", "London", "A"]
    assert result["original_answer"].to_pylist() == ["B", "paris.", None, "Londn", None]
    assert result["choice_match"].to_pylist() == ["letter", "text", "text", "fuzzy", None]
    assert result["choice_score"].to_pylist() == [
        1.0,
        1.0,
        1.0,
        pytest.approx(0.909, abs=0.01),
        None,
    ]
    assert result["choices"].to_pylist() == [["London", "Paris", "Rome"]] * 4 + [None]
    assert result["question"].to_pylist()[0] == CITIES
    assert reasons(result) == [None] * 5
    assert counts == {"letter": 1, "text": 2, "fuzzy": 1}


def test_the_rest_is_matched_by_meaning():
    result, counts = apply(
        TableEmbedder().bound(),
        [(CITIES, "the French capital"), (CITIES, "somewhere between"), (CITIES, "a cheese")]
        + [(CITIES, "no")],
    )
    assert result["answer"].to_pylist()[0] == "Paris"
    assert result["choice_match"].to_pylist() == ["embedding", None, "embedding", None]
    assert reasons(result) == [
        None,
        "multiple-choice:ambiguous: best 'Paris' 0.95, second 0.95",
        None,
        "multiple-choice:no_option: best 'London' 0.59 < 0.6",
    ]
    assert result["choice_score"].to_pylist()[3] == 0.59
    assert counts == {"embedding": 2, "ambiguous": 1, "no_option": 1}


def test_rows_without_an_option_can_be_kept_as_plain_rows():
    stage = TableEmbedder().bound(MatchChoices.Config(if_no_option="keep"))
    result, counts = apply(stage, [(CITIES, "no")])
    assert reasons(result) == [None]
    assert result["choices"].to_pylist() == [None]
    assert result["answer"].to_pylist() == ["no"]
    assert counts == {"no_option": 1}


def test_options_about_other_options():
    question = "Which? (A) cats (B) dogs (C) {} (D) bats"
    result, counts = apply(
        NoEmbedder().bound(),
        [
            (question.format("All of these"), "C"),
            (question.format("None of these"), "None of these"),
            (question.format("Both A and B"), "both A and B"),
        ],
    )
    assert result["answer"].to_pylist() == ["cats, dogs and bats", "None of these", "cats and dogs"]
    assert reasons(result) == [
        None,
        "multiple-choice:none_of_these: the answer is 'None of these'",
        None,
    ]
    assert counts == {"letter": 1, "text": 1, "none_of_these": 1, "spelled_out": 2}


def test_a_letter_that_is_also_another_options_text_is_ambiguous():
    boron = "Which symbol has boron? (A) Bo (B) Bn (C) Br (D) B"
    result, _ = apply(NoEmbedder().bound(), [(boron, "B"), (boron, "(D)"), (boron, "D. B")])
    assert reasons(result) == [
        "multiple-choice:ambiguous: 'B' is the text of option D and the letter of option B",
        None,
        None,
    ]
    assert result["answer"].to_pylist()[1:] == ["B", "B"]


def test_malformed_options_are_dropped():
    result, counts = apply(NoEmbedder().bound(), [("Which? (A)  (B) y (C) z", "y")])
    assert reasons(result) == ["multiple-choice:malformed: an option is missing"]
    assert counts == {"malformed": 1}


def test_twice_the_same_option_is_one_answer():
    result, _ = apply(
        NoEmbedder().bound(), [("Which? (A) x (B) x (C) y", "x"), ("Which? (A) x (B) y", "A")]
    )
    assert result["answer"].to_pylist() == ["x", "x"]
    assert reasons(result) == [None, None]


def test_no_rows():
    result, _ = apply(NoEmbedder().bound(), [])
    assert result.num_rows == 0
    assert set(MatchChoices.writes) <= set(result.column_names)


def test_the_embedders_weights_are_part_of_the_identity():
    one = MatchChoices().bound(settings=Settings(embedder_revision="1")).identity()
    other = MatchChoices().bound(settings=Settings(embedder_revision="2")).identity()
    assert one != other
    faster = MatchChoices.Config(batch_size=8, actors=4)
    assert MatchChoices().bound(faster, Settings(embedder_revision="1")).identity() == one


def test_with_the_real_embedder():
    models = pytest.importorskip("ray_pipeline.models.packaged")
    try:
        folder = models.resolve("all-minilm-l6-v2")
    except Exception as error:  # not fetched on this machine
        pytest.skip(str(error))
    stage = MatchChoices().bound(settings=Settings(embedder=str(getattr(folder, "path", folder))))
    ocean = "Coldest ocean? (A) Atlantic Ocean (B) Arctic Ocean (C) Indian Ocean"
    result, counts = apply(stage, [(ocean, "the Arctic"), (ocean, "Violin")])
    assert result["answer"].to_pylist() == ["Arctic Ocean", "Violin"]
    assert reasons(result)[1].startswith("multiple-choice:no_option: best ")
    assert counts == {"embedding": 1, "no_option": 1}
