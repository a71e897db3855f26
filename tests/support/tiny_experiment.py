"""A run directory with token rows in subsets, and the stage that trains on them: without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from support.instruction_stages import STAGES
from support.stored_parts import put_part
from support.tiny_models import token_table, word_tokenizer

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.experiment.config import TrainSubsetsConfig
from ray_pipeline.stages.experiment.train import TrainSubsets

MODEL = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 32}
#: best of the 40 training rows: 8 ⊂ 24.
SIZES = {"few": 8, "many": 24}


def subsets_of(number: int) -> list[str]:
    """Subsets of a training row by its rank; the controls take from the other end."""
    names = [name for name, size in SIZES.items() if number < size]
    return names + [f"{name}-random" for name, size in SIZES.items() if 40 - size <= number]


def tiny_rows(folder: Path) -> StoredRows:
    """40 training rows, 6 to validate and 5 to test on, in two parts."""
    tokens = token_table(51, vocabulary=len(word_tokenizer().get_vocab()))
    split = ["train"] * 40 + ["validation"] * 6 + ["test"] * 5
    subsets = [subsets_of(i) if i < 40 else None for i in range(51)]
    table = tokens.append_column("split", pa.array(split))
    table = table.append_column("subsets", pa.array(subsets, pa.list_(pa.string())))
    table = table.append_column("status", pa.array(["kept"] * 51))
    put_part(folder / "one.parquet", table.slice(0, 15))
    put_part(folder / "two.parquet", table.slice(15))
    return StoredRows(Storage(str(folder)), ("one.parquet", "two.parquet"), "digest")


def stage(folder: Path, select: Any = None, split: Any = None, text: Any = None, **config: Any):
    """The stage on a tokenizer in a folder, after stages that chose `SIZES`."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        word_tokenizer().save_pretrained(tokenizer)
    sizes = {name: {"rows": size} for name, size in SIZES.items()}
    stages = [
        STAGES["split"].bound(split),
        STAGES["tokenise"].bound({"model": "words", "text": {"max_tokens": 32} | (text or {})}),
        STAGES["select-subsets"].bound({"draws": 1} | (select or {"subsets": sizes})),
    ]
    made = {
        "model": MODEL,
        "seeds": [1, 2],
        "settings": {name: {"epochs": 2, "learning_rate": 1e-3} for name in SIZES},
        "evaluations": 3,
        "batches": {"step_rows": 4, "batch_tokens": 256},
        "num_cpus": 1,
        "num_gpus": 0,
    }
    settings = Settings(stages=stages, models={"words": str(tokenizer)}, revisions={"words": "one"})
    return TrainSubsets().bound(TrainSubsetsConfig(**made | config), settings)


def place(folder: Path, say: Any = print) -> Workplace:
    """The run directory."""
    return Workplace(Storage(str(folder)), "work", say)
