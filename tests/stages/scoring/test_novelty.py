"""Novelty: the same scores however rows are cut, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.local_tables import decisions

from ray_pipeline.engine import stored_tables
from ray_pipeline.stage import Settings
from ray_pipeline.stages.embed import Embed, embedding_column
from ray_pipeline.stages.scoring import novelty as score_novelty
from ray_pipeline.stages.scoring.novelty import ScoreNovelty, novelty


def embedded(vectors: Any, texts: list[str] | None = None) -> pa.Table:
    array = np.asarray(vectors, dtype=np.float32)
    usable = np.isfinite(array).all(axis=1)
    ids = [f"row-{i}" for i in range(len(array))]
    column = embedding_column(array, usable)
    responses = [f"answer of {text}" for text in texts or ids]
    return pa.table(
        {"row_id": ids, "instruction": texts or ids, "response": responses, "embedding": column}
    )


def scores(rows: pa.Table, folder: Path, units: int = 1, seed: int = 7, **config: Any) -> list[Any]:
    stage = ScoreNovelty().bound(ScoreNovelty.Config(enabled=True, **config), Settings(seed=seed))
    found = decisions(stage, rows, folder, units)
    assert {row["status"] for row in found.values()} <= {None}
    return [found.get(name, {"novelty": None})["novelty"] for name in rows["row_id"].to_pylist()]


def crowd(number: int, dimensions: int = 16, seed: int = 1) -> Any:
    """Rows around five places, and one in ten that is alone."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(5, dimensions))
    vectors = centres[random.integers(5, size=number)]
    vectors = vectors + random.normal(size=(number, dimensions)) * 0.1
    vectors[::10] = random.normal(size=(len(vectors[::10]), dimensions)) * 2
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_same_scores_however_rows_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {i % 700}" for i in range(1_000)]  # copies are in other units
    rows = embedded(crowd(1_000), texts)
    whole = scores(rows, tmp_path / "1", reference_rows=300)
    monkeypatch.setattr(stored_tables, "_ONE_PART_ROWS", 100)
    monkeypatch.setattr(score_novelty, "_BLOCK_ELEMENTS", 1_000)
    assert scores(rows, tmp_path / "16", units=16, reference_rows=300) == whole
    shuffled = np.random.default_rng(3).permutation(1_000)
    other = scores(rows.take(shuffled), tmp_path / "s", units=7, reference_rows=300)
    assert [other[i] for i in np.argsort(shuffled)] == whole


def test_rows_that_are_alone_are_novel(tmp_path: Path) -> None:
    found = np.array(scores(embedded(crowd(800)), tmp_path))
    alone = np.arange(800) % 10 == 0
    assert found.min() >= 0 and found.max() <= 1
    assert np.quantile(found[alone], 0.1) > np.quantile(found[~alone], 0.9)


def test_it_is_the_mean_distance_to_the_nearest_others(tmp_path: Path) -> None:
    angles = np.deg2rad([0, 60, 90, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = scores(embedded(vectors), tmp_path, neighbours=2)
    thirty, sixty, ninety = 1 - np.cos(np.deg2rad([30, 60, 90]))
    expected = [(sixty + ninety) / 2, (thirty + sixty) / 2, (thirty + ninety) / 2, 1.0]
    assert found == pytest.approx(expected, abs=1e-3)  # half precision


def test_copies_do_not_count(tmp_path: Path) -> None:
    vectors = crowd(50)
    alone = scores(embedded(vectors), tmp_path / "one")
    texts = [f"row-{i}" for i in range(50)] + ["row-0"] * 200
    copied = scores(embedded(np.concatenate([vectors, vectors[[0] * 200]]), texts), tmp_path / "a")
    assert copied[:50] == alone
    assert set(copied[50:]) == {alone[0]}


def test_another_seed_draws_another_sample(tmp_path: Path) -> None:
    rows = embedded(crowd(200))
    one, other = (scores(rows, tmp_path / str(s), seed=s, reference_rows=20) for s in (1, 2))
    assert one != other


@pytest.mark.parametrize("units", [1, 3])
def test_too_few_rows_have_no_score(tmp_path: Path, units: int) -> None:
    assert scores(embedded(crowd(1)), tmp_path / "1", units) == [None]
    assert scores(embedded(crowd(3), ["same"] * 3), tmp_path / "same", units) == [None] * 3
    two = scores(embedded(crowd(2)), tmp_path / "2", units)
    assert two[0] == two[1] and two[0] is not None


def test_rows_without_numbers_have_no_score(tmp_path: Path) -> None:
    vectors = crowd(20)
    vectors[3] = np.nan
    found = scores(embedded(vectors), tmp_path, 2)
    assert found[3] is None and sum(score is None for score in found) == 1


def test_vectors_of_length_zero_are_far_from_all() -> None:
    zero, one = np.zeros((1, 4)), np.eye(4)[:1]
    own = np.zeros((1, 1), bool)
    assert novelty(zero, one, own, 5).tolist() == [1.0]
    assert novelty(one, -one, own, 5).tolist() == [1.0]  # opposite: no further than at most
    assert np.isnan(novelty(one, one, ~own, 5)).all()
    assert novelty(np.empty((0, 4)), one, np.empty((0, 1), bool), 5).shape == (0,)


def test_one_switch_turns_embedding_and_scores_on() -> None:
    off, on = ScoreNovelty().bound(), ScoreNovelty().bound({"enabled": True})
    assert off.is_off and not on.is_off
    embed = Embed("instruction", "response", only_for=ScoreNovelty)
    assert embed.bound().is_off
    assert embed.bound(settings=Settings(stages=[embed.bound(), off])).is_off
    assert not embed.bound(settings=Settings(stages=[embed.bound(), on])).is_off
    assert not Embed("instruction").bound().is_off
