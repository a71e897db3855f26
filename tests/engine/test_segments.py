"""What of a segment travels to workers, and what its tasks need of the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray.cloudpickle
from support.command import REPOSITORY

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.rows import drop, set_column, with_envelope
from ray_pipeline.engine import streaming
from ray_pipeline.engine.cluster import check_resources
from ray_pipeline.engine.config import stage_config
from ray_pipeline.engine.segments import Segment, apply_map, run_maps
from ray_pipeline.pipeline import load_job
from ray_pipeline.stage import MapStage, Settings
from ray_pipeline.stages.cleaning.clean_text import CleanText


def test_a_worker_of_a_plain_stage_does_not_import_torch(tmp_path: Path) -> None:
    """The job's other stages, those of training among them, stay where the run is."""
    job = load_job(REPOSITORY / "configs/qa_distillation/demo.yaml")
    stages = [stage.bound(stage_config(job.config, stage.name)) for stage in job.stages]
    settings = Settings(stages=stages)
    stage = next(stage for stage in stages if isinstance(stage, CleanText))
    sent = stage.bound(stage.config, settings).for_workers()
    (tmp_path / "stage.pickle").write_bytes(ray.cloudpickle.dumps(sent))
    read = (
        "import sys, ray.cloudpickle\n"
        f"stage = ray.cloudpickle.loads(open({str(tmp_path / 'stage.pickle')!r}, 'rb').read())\n"
        "print(stage.name, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", read], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == ["clean-text", "False"]


class Threaded(MapStage):
    """A map stage that computes with three threads."""

    name = "threaded"

    def resources(self) -> Resources:
        return Resources(cpus=3)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        return rows


class Plain(MapStage):
    name = "plain"

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        return rows


def segment(*stages: MapStage) -> Segment:
    bound = tuple(stage.bound() for stage in stages)
    return Segment(1, bound[-1].name, bound, ("f",) * len(bound), False, "f")


def test_a_task_has_the_cpus_of_the_stage_that_needs_most() -> None:
    asked: dict[str, Any] = {}
    dataset = SimpleNamespace(map_batches=lambda function, **options: asked.update(options))
    for stages, cpus in (([Plain()], 1), ([Plain(), Threaded(), Plain()], 3)):
        job = SimpleNamespace(segment=segment(*stages))
        streaming._operator(cast(Any, dataset), cast(Any, job), cast(Any, None))
        assert (asked["num_cpus"], asked["num_gpus"]) == (cpus, None)


def test_a_map_stage_that_fits_no_cluster_is_refused_before_the_run() -> None:
    check_resources([segment(Plain())], {}, [{"CPU": 2}], autoscaling=False)
    with pytest.raises(UserError, match=r"needs 3 CPUs.*map and decide stages 3"):
        check_resources([segment(Plain(), Threaded())], {}, [{"CPU": 2}], autoscaling=False)


# What a stage may not do to rows


class Faulty(MapStage):
    """A map stage whose result is made by a function of its input."""

    name = "faulty"
    reads: ClassVar[dict[str, pa.DataType]] = {"text": pa.string()}
    writes: ClassVar[dict[str, pa.DataType]] = {"more": pa.string()}

    def __init__(self, make: Callable[[pa.Table], pa.Table]) -> None:
        super().__init__()
        self._make = make

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        return self._make(rows)


THREE = with_envelope(pa.table({"text": ["a", "b", "c"]}), ["1", "2", "3"])
CREATED = with_envelope(pa.table({"text": ["a"]}), ["new"])


def of_parent(rows: pa.Table, parent: str) -> pa.Table:
    return set_column(rows, "parent_id", pa.array([parent] * rows.num_rows, pa.string()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rows: rows.slice(1), "lost rows: 3 in, 2 out"),
        (lambda rows: rows.slice(0, 0), "lost rows: 3 in"),
        (lambda rows: set_column(rows, "row_id", pa.array(["1", "2", "x"])), "lost rows"),
        (lambda rows: rows.take([0, 1, 2, 2]), "returned a row twice"),
        (lambda rows: rows.take([0, 1, 1]), "returned a row twice"),
        (lambda rows: pa.concat_tables([rows, CREATED]), "created a row without parent_id"),
        (lambda rows: set_column(rows, "other", rows["text"]), r"undeclared columns: \['other'\]"),
    ],
)
def test_a_stage_that_breaks_its_contract_stops_the_run(
    make: Callable[[pa.Table], pa.Table], message: str
) -> None:
    stage = Faulty(make).bound()
    with pytest.raises(RunError, match=f"'faulty'.*{message}"):
        apply_map(stage, THREE, Counter())
    with pytest.raises(RunError, match=message):
        run_maps([stage], THREE)


def test_what_a_stage_may_do_passes_the_checks() -> None:
    made = [
        lambda rows: rows,
        lambda rows: rows.take([2, 0, 1]),
        lambda rows: set_column(rows, "more", rows["text"]),
        lambda rows: pa.concat_tables([rows, of_parent(CREATED, "1")]),
        lambda rows: drop(rows, pa.array([True, False, False]), "faulty:so: it is a"),
    ]
    for make in made:
        rows, (account,) = run_maps([Faulty(make).bound()], THREE)
        assert account.balances and set(rows["row_id"].to_pylist()) >= {"1", "2", "3"}
    assert rows.filter(pc.equal(rows["status"], "dropped"))["stage"].to_pylist() == ["faulty"]


def test_a_row_that_raises_fails_alone_and_is_never_kept() -> None:
    def make(rows: pa.Table) -> pa.Table:
        if "b" in rows["text"].to_pylist():
            raise KeyError("b")
        return rows

    rows, (account,) = run_maps([Faulty(make).bound()], THREE)
    assert (account.kept, account.failed) == (2, 1) and account.balances
    failed = rows.filter(pc.equal(rows["status"], "failed"))
    assert failed["row_id"].to_pylist() == ["2"] and "KeyError" in failed["reason"][0].as_py()
