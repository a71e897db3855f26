"""Kills at random moments: nothing lost, nothing doubled, nothing paid twice, the same rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from chaos.harness import run_chaos, toy_job


@pytest.mark.chaos
@pytest.mark.slow
def test_kills_of_the_driver_and_of_actors(ray_cluster: str, tmp_path: Path) -> None:
    job = partial(toy_job, rows=240, unit_rows=20)
    kills = {"driver_kills": 2, "worker_kills": 3, "calm_address": ray_cluster}
    outcome = run_chaos(tmp_path, job, "question", concurrency=8, latency=0.2, seed=3, **kills)
    assert (outcome.driver_kills, outcome.requests, outcome.fates) == (2, 240, {"kept": 240})
    assert len(outcome.worker_kills) >= 2
    assert outcome.good(), outcome
