"""Early stopping looks at rows of the source, not at a model's paraphrases of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.stored_parts import put_part
from support.tiny_study import tiny_job

from ray_pipeline.train.job import TrainingJob, train
from ray_pipeline.train.loop import World


def validation_losses(job: TrainingJob, folder: str) -> list[float]:
    figures: list[dict[str, Any]] = []
    train(replace(job, folder=folder), World(), "cpu", figures.append)
    return [one["validation_loss"] for one in figures if "validation_loss" in one]


def test_paraphrases_are_not_validated_on(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    path = tmp_path / "part.parquet"
    table = pq.read_table(path).replace_schema_metadata(None)
    everywhere = validation_losses(job, "all")

    versions = ["original"] * 36 + ["formal"] * 4
    put_part(path, table.append_column("version", pa.array(versions)))
    found = validation_losses(job, "originals")

    put_part(path, table.slice(0, 36))
    assert found == validation_losses(job, "without")
    assert found != everywhere
