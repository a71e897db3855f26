"""What is a pair with a label, and what every other row is called."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from pydantic import ValidationError
from support.stage_tables import reasons

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.stages.reasoning.validate_pairs import ValidatePairs


def table(*rows: tuple[str | None, str | None, str | None]) -> pa.Table:
    columns = {
        name: pa.array([row[at] for row in rows], pa.string())
        for at, name in enumerate(("premise", "hypothesis", "label"))
    }
    return with_envelope(pa.table(columns), [f"r{at}" for at in range(len(rows))])


def test_labels_are_spelled_as_configured_and_the_rest_is_named() -> None:
    counts: Counter[str] = Counter()
    rows = table(
        ("A cat sits.", "A cat.", "entailment"),
        ("A cat sits.", "A cat.", " Neutral "),
        ("A cat sits.", "A cat.", "-"),
        ("A cat sits.", "A cat.", "0"),
        ("A cat sits.", "A cat.", "-1"),
        ("A cat sits.", "A cat.", "maybe"),
        ("A cat sits.", "A cat.", None),
        ("A cat sits.", "  ", "neutral"),
        (None, "A cat.", "neutral"),
        ("A cat " * 1000, "A cat.", "neutral"),
    )
    made = ValidatePairs().bound().apply(rows, counts)
    hint = "; say which label it is with label_names"
    assert reasons(made) == [
        None,
        None,
        "label:no_agreement",
        f"label:unknown: '0'{hint}",
        f"label:unknown: '-1'{hint}",
        "label:unknown: 'maybe'",
        "label:missing",
        "pair:empty_hypothesis",
        "pair:empty_premise",
        "pair:long_premise: 6000 characters",
    ]
    # What was not understood stays as it was.
    assert made["label"].to_pylist()[:4] == ["entailment", "neutral", "-", "0"]
    assert counts == {"entailment": 1, "neutral": 1, "labels respelled": 1}


def test_numbers_are_labels_only_where_the_configuration_says_which() -> None:
    names = {"0": "entailment", "1": "neutral", "2": "contradiction"}
    stage = ValidatePairs().bound({"label_names": names})
    made = stage.apply(table(("A.", "B.", "2"), ("A.", "B.", "3")), Counter())
    assert made["label"].to_pylist() == ["contradiction", "3"]
    assert (reasons(made)[1] or "").startswith("label:unknown: '3'")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"labels": ["yes", "YES"]}, "differ by more than case"),
        ({"labels": ["yes", ""]}, "must not be empty"),
        ({"label_names": {"0": "entails"}}, "entails is not among labels"),
    ],
)
def test_a_label_set_that_cannot_be_told_apart_is_refused(
    config: dict[str, object], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        ValidatePairs().bound(config)
