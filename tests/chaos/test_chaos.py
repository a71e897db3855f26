"""Kills at random moments: nothing lost, nothing doubled, nothing paid twice, the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.harness import run_chaos


@pytest.mark.chaos
@pytest.mark.slow
def test_kills_of_the_driver_and_of_actors(tmp_path: Path) -> None:
    outcome = run_chaos(tmp_path, rows=240, unit_rows=20, concurrency=8, latency=0.2, seed=3)
    assert outcome.exit_code == 0
    assert (outcome.driver_kills, outcome.lost, outcome.duplicated) == (3, 0, 0)
    assert outcome.actor_kills > 0
    assert outcome.repeated_on_storage == 0
    assert outcome.balanced
    assert outcome.identical
