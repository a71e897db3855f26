"""On real ranks: two gloo processes give the losses, gradient norms and weights of one, whether
each holds the whole model or a part of it; and one goes on where two stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.command import TESTS
from support.one_rank import train

from ray_pipeline.train.loop import World
from ray_pipeline.train.optimizers import OPTIMIZERS


def on_two_ranks(
    folder: Path, hold: str, steps: int = 0, optimizer: str = "adamw"
) -> tuple[list[dict], list[dict]]:
    """Figures and weights of each rank."""
    script = TESTS / "support" / "one_rank.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), "2", str(folder), hold, str(steps), optimizer],
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=500) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    figures = [json.loads((folder / f"figures-{rank}.json").read_text()) for rank in range(2)]
    return figures, [torch.load(folder / f"weights-{rank}.pt") for rank in range(2)]


def assert_same_figures(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in one.keys() - {"seconds"}:
            assert other[name] == pytest.approx(one[name], rel=1e-8, abs=1e-12), name


@pytest.mark.slow
@pytest.mark.parametrize("hold", ["whole", "sharded"])
def test_two_ranks_train_what_one_trains(tmp_path, hold: str) -> None:
    of_ranks, (first, second) = on_two_ranks(tmp_path, hold)
    alone, weights = train(World())
    for figures in of_ranks:
        assert_same_figures(alone, figures)
    for name, value in weights.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "bart", "labels"])
def test_two_ranks_train_a_seq2seq_model_or_labels_as_one_does(tmp_path, kind: str) -> None:
    of_ranks, (first, second) = on_two_ranks(tmp_path, kind)
    alone, weights = train(World(), kind)
    for figures in of_ranks:
        assert_same_figures(alone, figures)
    for name, value in weights.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_rank_goes_on_where_two_with_parts_of_the_model_stopped(tmp_path, optimizer) -> None:
    on_two_ranks(tmp_path, "sharded", 3, optimizer)
    after, weights = train(World(), folder=tmp_path, optimizer=optimizer)
    whole, expected = train(World(), optimizer=optimizer)
    assert_same_figures(whole[-len(after) :], after)
    assert after[0]["step"] == 4
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-8, atol=1e-10)
