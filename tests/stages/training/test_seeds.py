"""The run's seed reaches every training: new weights, row order and dropout follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.stored_parts import put_part

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TextConfig
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.training.base import TrainingStage
from ray_pipeline.stages.training.distil import Distil, StudentStage, TrainAlone
from ray_pipeline.stages.training.search import Search, SearchAlone
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.chosen_rows import LeftOut, token_rows
from ray_pipeline.train.job import ModelSource, TrainingJob
from ray_pipeline.train.loop import LoopConfig

STAGES: tuple[type[TrainingStage], ...] = (TrainTeacher, Distil, TrainAlone, Search, SearchAlone)


def bound(stage: type[TrainingStage], seed: int, own: int = 0, seeds: int = 1) -> Any:
    loop = {"loop": {"seed": own}}
    stages = [
        Tokenise("question", "answer").bound({"model": "some"}),
        TrainTeacher().bound({"model": "some", **loop}),
        Search().bound({"trials": int(stage in (Search, SearchAlone))}),
        Distil().bound({"student": {"layers": [0]}, "teacher": "online", "seeds": seeds} | loop),
        SearchAlone().bound(),
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


@pytest.mark.parametrize("stage", [Distil, TrainAlone])
def test_both_students_of_a_seed_leave_out_the_same_questions(
    tmp_path: Path, stage: type[StudentStage]
) -> None:
    mine = bound(stage, 7, seeds=3)
    storage = Storage(str(tmp_path))
    job = TrainingJob(
        StoredRows(storage, (), "digest"), storage, "work", ModelSource("m"), "m", TextConfig(),
        loop=LoopConfig(seed=7),
    )  # fmt: skip
    repeats = mine.repeats(job)
    assert [one.loop.seed for one in repeats] == [8, 9]
    assert [one.left_out for one in repeats] == [LeftOut(0.2, 8), LeftOut(0.2, 9)]
    names = [one.name for one in (job, *repeats)]
    assert names[1:] == [f"{mine.model_name}-seed-{number}" for number in (2, 3)]
    assert len({one.folder for one in (job, *repeats)}) == 3
    assert len(mine.makes) == 3


def test_left_out_are_whole_questions_with_their_paraphrases(tmp_path: Path) -> None:
    number = 400
    ids = [f"row{i}" for i in range(number)]
    parents = [None if i < 200 else f"row{i - 200}" for i in range(number)]
    groups = ["g" if i % 200 < 20 else None for i in range(number)]
    rows = with_envelope(
        pa.table(
            {
                "input_ids": pa.array([[i, 1] for i in range(number)], pa.list_(pa.int32())),
                "answer_mask": pa.array([[False, True]] * number),
                "split": ["train"] * number,
                "split_group": pa.array(groups, pa.string()),
            }
        ),
        ids,
    )
    at = rows.column_names.index("parent_id")
    rows = rows.set_column(at, "parent_id", pa.array(parents, pa.string()))
    put_part(tmp_path / "part.parquet", rows)
    stored = StoredRows(Storage(str(tmp_path)), ("part.parquet",), "digest")

    def kept(seed: int, share: float = 0.2) -> set[str]:
        return set(token_rows(stored, "train", None, LeftOut(share, seed)).row_ids.to_pylist())

    for seed in (1, 2, 3):
        some = kept(seed)
        assert 240 < len(some) < 385  # 80% of 181 questions, of which one has 40 rows
        assert all((f"row{i}" in some) == (f"row{i + 200}" in some) for i in range(200))
        assert len(some & {f"row{i}" for i in range(20)}) in (0, 20)
        assert some == kept(seed) and kept(seed, 0.5) < some
    assert kept(1) != kept(2)
    assert len(kept(1, 0.0)) == number
