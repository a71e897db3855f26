"""The lock of a run directory: workers that may still write are waited for, others are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir import lock
from ray_pipeline.rundir.lock import release_workers_lock, run_lock, share_workers_lock


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """A run directory whose workers are this process."""
    storage = Storage(str(tmp_path))
    with run_lock(storage):
        share_workers_lock(storage)
    yield storage
    lock._held.clear()


def waits(storage: Storage) -> bool:
    """Whether a new run waits for workers; then they end."""
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        lock._held.clear()

    with run_lock(storage, tell):
        return bool(said)


def test_the_workers_of_a_killed_run_are_waited_for(storage: Storage) -> None:
    assert waits(storage)
    assert not waits(storage)


def test_idle_workers_of_a_run_that_ended_are_not_waited_for(storage: Storage) -> None:
    release_workers_lock(storage)
    assert not waits(storage)


def test_an_idle_worker_that_works_for_the_next_run_is_waited_for(storage: Storage) -> None:
    release_workers_lock(storage)
    with run_lock(storage):
        share_workers_lock(storage)
        share_workers_lock(storage)
    assert waits(storage)


def test_a_worker_holds_each_directory_that_it_writes_to(storage: Storage, tmp_path: Path) -> None:
    other = Storage(str(tmp_path / "other"))
    with run_lock(other):
        share_workers_lock(other)
    release_workers_lock(storage)
    assert not waits(storage)
    assert waits(other)
