"""The stages around the scores: validation, near duplicates, weights, the common held-out rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.instruction_stages import STAGES
from support.local_tables import decisions
from support.stage_tables import reasons

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.stage import Settings
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.training.split import Split


def table(pairs: Sequence[tuple[str | None, str | None]], **columns: Sequence[Any]) -> pa.Table:
    data = {
        "instruction": pa.array([one for one, _ in pairs], pa.string()),
        "response": pa.array([other for _, other in pairs], pa.string()),
        **{name: pa.array(values, pa.float64()) for name, values in columns.items()},
    }
    return with_envelope(pa.table(data), [f"row{i}" for i in range(len(pairs))])


def test_validation_by_its_own_limits() -> None:
    rows = table(
        [("Say it", "yes"), ("S" * 9, "yes"), ("Say it", "y" * 5), (None, "yes"), ("", "")]
    )
    stage = STAGES["validate"].bound({"max_instruction_chars": 8, "max_response_chars": 4})
    assert reasons(stage.apply(rows, Counter())) == [
        None,
        "invalid:too_long: instruction has 9 characters, at most 8",
        "invalid:too_long: response has 5 characters, at most 4",
        "invalid:null: instruction",
        "invalid:empty: instruction",
    ]


def test_near_duplicates_are_off_by_default(tmp_path: Path) -> None:
    words = " ".join(f"word{i}" for i in range(60))
    rows = table([(words, words), (words, f"{words} more"), ("Other", "text")])
    stage = STAGES["near-duplicates"]
    assert stage.bound().is_off
    on = stage.bound({"enabled": True}, Settings(seed=7))
    assert not on.is_off
    made = decisions(on, rows, tmp_path / "on", units=2)
    assert {row["reason"] for row in made.values()} == {"duplicate:near"}
    assert len(made) == 1
    assert "source" in stage.bound({"enabled": True, "must_equal": ["source"]}).reads


def test_weights_as_the_seed_has_them() -> None:
    scores = {
        "clarity": [0.9, 0.3],
        "response_quality": [0.7, 0.1],
        "diversity": [0.55, 0.2],
        "complexity": [0.1, 0.8],
    }
    rows = table([("a", "b")] * 2, **scores)
    weights = {"clarity": 0.25, "response_quality": 0.35, "diversity": 0.2, "complexity": 0.2}
    expected = [sum(scores[name][i] * weights[name] for name in scores) for i in range(2)]
    assert WeighScores().bound().apply(rows, Counter())["quality"].to_pylist() == expected


def test_scores_that_are_no_numbers() -> None:
    rows = table(
        [("a", "b")] * 5,
        ifd=[0.5, None, math.nan, -math.inf, 1e308],
        novelty=[0.5, 0.5, None, 0.5, 0.5],
        clarity=[None] * 5,
    )
    config = WeighScores.Config(weights={"ifd": 3.0, "novelty": -2.0, "clarity": 0.0})
    stage = WeighScores().bound(config)
    assert set(stage.reads) == {"ifd", "novelty"}
    made = stage.apply(rows, Counter())
    assert reasons(made) == [
        None,
        "score:not_a_number: ifd is missing",
        "score:not_a_number: ifd is nan",
        "score:not_a_number: ifd is -inf",
        "score:not_a_number: quality is inf",
    ]
    assert made["quality"][0].as_py() == 0.5
    nothing = table([], clarity=[], response_quality=[], diversity=[], complexity=[])
    assert WeighScores().bound().apply(nothing, Counter())["quality"].to_pylist() == []


@pytest.mark.parametrize(
    "weights", [{}, {"clarity": 0.9}, {"clarity": math.nan}, {"clarity": 1.00001}]
)
def test_weights_that_do_not_sum_to_one(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not to 1"):
        WeighScores.Config(weights=weights)
    WeighScores.Config(weights={"clarity": 1 + 5e-7})


def test_the_same_text_is_on_the_same_side() -> None:
    texts = [(f"What is {i}?", f"It is {i}.") for i in range(400)]
    twins = [(f"what  is {i}", f"IT IS {i}") for i in range(400)]
    stage = Split(by=("instruction", "response")).bound(
        {"validation": 0.2, "test": 0.1}, Settings(seed=1)
    )
    sides = stage.apply(table([*texts, *twins]), Counter())["split"].to_pylist()
    assert sides[:400] == sides[400:]
    assert 40 < sides[:400].count("validation") < 120
    assert 15 < sides[:400].count("test") < 70
    backwards = stage.apply(table(texts[::-1]), Counter())["split"].to_pylist()
    assert backwards == sides[:400][::-1]
    other = stage.bound(stage.config, Settings(seed=2)).apply(table(texts), Counter())
    assert other["split"].to_pylist() != sides[:400]
