"""What is not equally trained is not compared, whichever part of the training is unequal."""

from __future__ import annotations

from typing import Any

import pytest
from support.made_cells import VOCABULARY, record

from ray_pipeline.evaluate.experiment.analysis import Question, analyse
from ray_pipeline.evaluate.experiment.cells import Cell, groups
from ray_pipeline.evaluate.experiment.effort import differences, effort, not_compared

SIZES = {"few": 1_000, "many": 10_000, "most": 100_000}


def made(mode: str, **of_controls: Any) -> list[Cell]:
    """Three sizes with controls, whose records are changed."""
    return [
        Cell.from_json(
            record(
                name,
                seed,
                3.0 - 0.01 * seed + place / 10 + control / 5 + 0.001 * (seed + control) ** 2,
                rows,
                control,
                mode,
                **{"schedule": "linear", "warmup_steps": 3, "tokens_seen": 5_000_000}
                | (of_controls if control else {}),
            )
        )
        for place, (name, rows) in enumerate(SIZES.items())
        for seed in (1, 2, 3)
        for control in (False, True)
    ]


def pair(mode: str, **of_controls: Any) -> tuple[Any, Any]:
    ours, others, *_ = groups(made(mode, **of_controls), mode)
    return ours, others


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 52}, "10 against 52 updates"),
        ({"tokens_seen": 3_000_000}, "5,000,000 against 3,000,000 tokens"),
        ({"tokens_seen": 4_500_000}, "5,000,000 against 4,500,000 tokens"),  # one update's
        ({"warmup_steps": 5}, "warm-up of 3 against 5 updates"),
        ({"schedule": "cosine"}, "linear against cosine schedule"),
        ({"learning_rate": 1e-4}, "learning rate 0.0002 against 0.0001"),
    ],
)
def test_what_is_unequal_is_named_and_in_the_mode_tokens_not_compared(change, words: str) -> None:
    ours, others = pair("tokens", **change)
    assert differences(ours, others) == [words] and not_compared(ours, others) == words
    ours, others = pair("epochs", **change)
    assert differences(ours, others) == [words] and not_compared(ours, others) is None


def test_less_than_the_tokens_of_an_update_and_what_is_not_recorded_make_no_difference() -> None:
    for change in ({"tokens_seen": 4_500_001}, {"warmup_steps": None, "schedule": None}):
        ours, others = pair("tokens", **change)
        assert differences(ours, others) == []


def test_seeds_are_compared_with_themselves() -> None:
    cells = made("tokens")
    for cell in cells:
        object.__setattr__(cell, "steps", 30 + cell.seed)
    ours, others, *_ = groups(cells, "tokens")
    assert not_compared(ours, others) is None
    assert effort(ours)["updates"] == "31 to 33"
    for cell in others.cells[2:]:
        object.__setattr__(cell, "steps", 52)
    assert not_compared(ours, others) == "31 to 33 against 31 to 52 updates"


def test_a_rate_that_each_side_chose_among_the_same_ones_is_no_difference() -> None:
    cells = [
        Cell.from_json(record("few", 1, 3.0, 1_000, control, "tokens", rate, validation_loss=loss))
        for control, losses in ((False, (2.0, 3.0)), (True, (3.0, 2.0)))
        for rate, loss in zip((1e-4, 2e-4), losses, strict=True)
    ]
    ours, others = groups(cells, "tokens")
    assert ours.first.learning_rate != others.first.learning_rate
    assert differences(ours, others) == []


def test_an_experiment_whose_steps_were_rows_is_not_compared_anywhere() -> None:
    """As in runs of before: 33 updates of the long best rows, 52 of the random ones."""
    (found,) = analyse(made("tokens", steps=52), Question(VOCABULARY, resamples=5))[
        "modes"
    ].values()
    for one in found["controls"]:
        assert one["verdict"] == "not compared" and one["why"] == "10 against 52 updates"
        assert one["difference"] is one["perplexity_ratio"] is one["p_value"] is None
        assert one["worth_random_rows"] is None
    (said,) = [s for s in found["recommendation"] if s.startswith("Selecting")]
    assert said.count("not compared with them: 10 against 52 updates") == 3
    # Subsets of several sizes have equally many: their comparisons stand.
    assert found["threshold"]["rule"]["subset"] is not None

    unequal = made("tokens")
    for cell in unequal:
        object.__setattr__(cell, "steps", {"few": 33, "many": 36, "most": 38}[cell.of])
    (found,) = analyse(unequal, Question(VOCABULARY, resamples=5))["modes"].values()
    assert {one["verdict"] for one in found["controls"]} <= {"helps", "hurts", "undecided"}
    assert {one["worth_random_rows"] for one in found["controls"]} == {None}
    assert found["threshold"]["rule"]["subset"] is None
    assert "not compared are few and many: 33 against 36 updates" in found["recommendation"][0]
    comparisons = found["threshold"]["intervals"]["comparisons"]
    assert [one["why"] for one in comparisons] == [
        "33 against 38 updates",
        "36 against 38 updates",
    ]
    assert found["threshold"]["intervals"]["subset"] is None
    for law in found["scaling"].values():
        assert law["why"] == "the trainings are not compared: 36 against 33 updates"


def test_in_the_mode_epochs_what_differs_is_said_beside_the_verdict() -> None:
    cells = made("epochs", tokens_seen=3_000_000)
    (found,) = analyse(cells, Question(VOCABULARY, resamples=5))["modes"].values()
    assert {one["verdict"] for one in found["controls"]} == {"helps"}
    assert found["controls"][0]["differs"] == ["5,000,000 against 3,000,000 tokens"]
    (said,) = [s for s in found["recommendation"] if "more than the rows" in s]
    assert "at 1,000 rows 5,000,000 against 3,000,000 tokens" in said
