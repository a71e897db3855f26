"""What of a segment travels to workers, and what its tasks need of the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
import ray.cloudpickle
from support.command import REPOSITORY

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.engine import streaming
from ray_pipeline.engine.cluster import check_resources
from ray_pipeline.engine.config import stage_config
from ray_pipeline.engine.segments import Segment
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
