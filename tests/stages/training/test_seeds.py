"""The run's seed reaches every training: new weights, row order and dropout follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.training.base import TrainingStage
from ray_pipeline.stages.training.distil import Distil, TrainAlone
from ray_pipeline.stages.training.search import Search
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.tokenise import Tokenise

STAGES: tuple[type[TrainingStage], ...] = (TrainTeacher, Distil, TrainAlone, Search)


def bound(stage: type[TrainingStage], seed: int, own: int = 0) -> Any:
    loop = {"loop": {"seed": own}}
    stages = [
        Tokenise("question", "answer").bound({"model": "some"}),
        TrainTeacher().bound({"model": "some", **loop}),
        Search().bound({"trials": int(stage is Search)}),
        Distil().bound({"student": {"layers": [0]}, "teacher": "online", **loop}),
        TrainAlone().bound(),
    ]
    settings = Settings(seed=seed, stages=stages, revisions={"some": "1"}, models={"some": "some"})
    (mine,) = [one for one in stages if type(one) is stage]
    return mine.bound(mine.config, settings)


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_has_the_runs_seed(tmp_path: Path, stage: type[TrainingStage]) -> None:
    storage = Storage(str(tmp_path))
    place = Workplace(storage, "work", print)

    def seed(*seeds: int) -> int:
        job = bound(stage, *seeds).job(StoredRows(storage, (), "digest"), place)
        found: int = job.loop.seed
        return found

    assert (seed(0), seed(7), seed(7, 2)) == (0, 7, 9)


@pytest.mark.parametrize("stage", STAGES)
def test_another_seed_is_another_training(stage: type[TrainingStage]) -> None:
    assert bound(stage, 1).identity() == bound(stage, 1).identity()
    assert bound(stage, 1).identity() != bound(stage, 2).identity()
