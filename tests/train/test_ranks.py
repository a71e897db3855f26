"""(c) on real ranks: two gloo processes give the losses, gradient norms and weights of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train.one_rank import train

from ray_pipeline.train.loop import World


@pytest.mark.slow
def test_two_ranks_train_what_one_trains(tmp_path) -> None:
    script = Path(__file__).with_name("one_rank.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), "2", str(tmp_path), "right"], env=environment
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=500) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    alone, weights = train(World(), "right")
    for rank in range(2):
        figures = json.loads((tmp_path / f"figures-{rank}.json").read_text())
        assert len(figures) == len(alone)
        for one, other in zip(alone, figures, strict=True):
            for name in one.keys() - {"seconds"}:
                assert other[name] == pytest.approx(one[name], rel=1e-8, abs=1e-12), name
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2))
    for name, value in weights.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-8, atol=1e-10)
