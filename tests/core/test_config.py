"""Which fields of a configuration are part of its identity, at any depth."""

from __future__ import annotations

from typing import Annotated

from ray_pipeline.core.config import AddedWith, Execution, Section


class Pool(Section):
    kind: str = "cpu"
    actors: Annotated[int, Execution] = 1


class Job(Section):
    name: str = "a"
    pool: Pool = Pool()
    pools: dict[str, Pool] = {}
    more: list[Pool] = []
    either: Pool | None = None
    margin: Annotated[int, AddedWith(0)] = 0


class WideJob(Job):
    margin: Annotated[int, AddedWith(0)] = 3


def test_execution_fields_are_left_out_at_any_depth() -> None:
    job = Job(
        pool=Pool(actors=2), pools={"x": Pool(actors=3)}, more=[Pool(actors=4)], either=Pool()
    )
    pool = {"kind": "cpu"}
    assert job.identity() == {
        "name": "a", "pool": pool, "pools": {"x": pool}, "more": [pool], "either": pool
    }  # fmt: skip


def test_what_is_not_marked_changes_the_identity_at_any_depth() -> None:
    plain = Job(pools={"x": Pool()}, more=[Pool()]).identity()
    assert Job(pools={"x": Pool(kind="gpu")}, more=[Pool()]).identity() != plain
    assert Job(pools={"x": Pool()}, more=[Pool(kind="gpu")]).identity() != plain
    assert Job(pools={"x": Pool()}, more=[Pool()], pool=Pool(kind="gpu")).identity() != plain


def test_a_field_that_was_added_later_counts_only_where_it_says_something_new() -> None:
    assert "margin" not in Job().identity()
    assert Job(margin=1).identity()["margin"] == 1
    # Where a subclass has another default, runs always named the value.
    assert WideJob().identity()["margin"] == 3
    assert WideJob(margin=0).identity()["margin"] == 0
