"""Rules of outliers: which rows they mark, and which questions they leave alone."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from ray_pipeline.core.errors import UserError
from ray_pipeline.stages.outliers.rules import OutlierRules


def marked(rows: list[tuple[str, str]], **config: Any) -> tuple[list[str | None], Counter[str]]:
    questions, answers = zip(*rows, strict=True)
    table = pa.table({"question": list(questions), "answer": list(answers)})
    counts: Counter[str] = Counter()
    stage = OutlierRules().bound(config)
    found: list[str | None] = stage.apply(table, counts)["outlier_rule"].to_pylist()
    return found, counts


@pytest.mark.parametrize(
    ("question", "answer", "rule"),
    [
        ("When are the office hours?", "On Monday.", "course"),
        ("What does this module cover?", "Cells.", "course"),
        ("Refer to figure 3: what is shown?", "A cell.", "course"),
        ("What does it print?\nfor (i = 0; i < 3; i++) {", "012", "code"),
        ("What is it?", "def run(self):\n    return self.x;", "code"),
        ("lorem ipsum dolor", "sit amet", "filler"),
        ("TODO", "", "filler"),
        ("Wie heißt die Hauptstadt von Frankreich, und wer regiert dort?", "Paris", "language"),
        ("In which chapter does Ahab die in the novel?", "In the last one.", None),
        ("Who painted the Mona Lisa?", "Leonardo da Vinci", None),
        ("Which course of a meal comes last?", "The dessert", None),
    ],
)
def test_what_the_rules_mark(question: str, answer: str, rule: str | None) -> None:
    found, counts = marked([(question, answer)])
    assert found == [rule]
    assert counts == ({rule: 1} if rule else {})


def test_a_row_is_marked_with_the_first_rule_that_matches() -> None:
    patterns = {"late": "zebra", "early": "horse"}
    assert marked([("a horse and a zebra", "")], patterns=patterns)[0] == ["late"]
    reversed_ = dict(reversed(patterns.items()))
    assert marked([("a horse and a zebra", "")], patterns=reversed_)[0] == ["early"]


GERMAN = "Wie heißt die Hauptstadt von Frankreich, und wer regiert dort?"


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({}, "language"),
        ({"language": "de"}, None),
        ({"language": None}, None),
        ({"min_language_confidence": 1.0}, None),
        ({"min_language_chars": 500}, None),
    ],
)
def test_the_language_is_as_configured(config: dict[str, Any], rule: str | None) -> None:
    assert marked([(GERMAN, "Paris")], **config)[0] == [rule]


def test_only_the_beginning_of_a_long_text_is_matched() -> None:
    assert marked([("x" * 3_000 + " lorem ipsum", "")], language=None)[0] == [None]
    assert marked([("x" * 1_900 + " lorem ipsum", "")], language=None)[0] == ["filler"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"patterns": {"mine": "("}}, "mine: not a regular expression"),
        ({"language": "english"}, "'english' is not one of the languages"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises((UserError, ValueError), match=words):
        OutlierRules().bound(config)


def test_it_travels_to_workers_without_its_model() -> None:
    stage = OutlierRules().bound()
    table = pa.table({"question": [GERMAN], "answer": ["Paris"]})
    stage.apply(table, Counter())
    copy = pickle.loads(pickle.dumps(stage))
    assert "_language" not in copy.__dict__
    assert copy.apply(table, Counter())["outlier_rule"].to_pylist() == ["language"]
