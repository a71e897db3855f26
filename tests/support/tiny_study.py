"""A run directory with a tiny teacher and token rows: what a trial needs, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from support.tiny_models import WORDS, tiny_model, token_table, word_tokenizer

from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TextConfig
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.train.batches import BatchConfig
from ray_pipeline.train.job import ModelSource, TrainingJob
from ray_pipeline.train.loop import LoopConfig
from ray_pipeline.train.losses import Objective
from ray_pipeline.train.store import put_model
from ray_pipeline.train.student import StudentConfig, save


def tiny_job(folder: Path, validation: int = 8, **loop: Any) -> TrainingJob:
    """The training of a one-layer student by a two-layer teacher, online, on 32 rows."""
    storage = Storage(str(folder))
    tokenizer = word_tokenizer()
    put_model(storage, "teacher", tiny_model().float(), tokenizer)
    table = token_table(32 + validation, vocabulary=len(tokenizer.get_vocab()))
    split = ["train"] * 32 + ["validation"] * validation
    table = table.append_column("split", pa.array(split))
    table = table.append_column("status", pa.array(["kept"] * table.num_rows))
    write_part(storage, "part.parquet", table, fingerprint="f", input_digest="i", accounts=[])
    return TrainingJob(
        rows=StoredRows(storage, ("part.parquet",), "digest"),
        storage=storage,
        folder="trial",
        model=ModelSource("teacher", of_run=True, student=StudentConfig(layers=[0])),
        name=None,
        text=TextConfig(),
        objective=Objective(beta=1),
        loop=LoopConfig(**{"max_steps": 4, "evaluate_every": 2, "epochs": 4} | loop),
        batches=BatchConfig(step_rows=8, batch_tokens=512),
        teacher="online",
    )


def model_folder(folder: Path) -> Path:
    """A tiny model with its tokenizer, as a user would name it."""
    return save(tiny_model(layers=3).float(), word_tokenizer(), folder)


def qa_rows(number: int) -> list[dict[str, str]]:
    """Questions and answers in the tokenizer's words, with something to learn in them."""
    letters = WORDS[:6]
    return [
        {
            "question": f"what is the capital of {letters[i % 6]} {letters[i // 6 % 6]} ?",
            "answer": f"the answer is {letters[(i + 1) % 6]} .",
        }
        for i in range(number)
    ]
