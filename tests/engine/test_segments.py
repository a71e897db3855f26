"""What of a segment travels to workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ray.cloudpickle
from support.command import REPOSITORY

from ray_pipeline.engine.config import stage_config
from ray_pipeline.pipeline import load_job
from ray_pipeline.stage import Settings
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
