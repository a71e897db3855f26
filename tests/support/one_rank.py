"""One rank of a small training, as a process.

``python one_rank.py RANK SIZE FOLDER HOLD STEPS OPTIMIZER``

HOLD is whole or sharded, or the kind of another model (t5, bart, labels); STEPS how many to take, 0
for all. Writes its figures and final weights into the folder, and checkpoints.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.tiny_models import (
    VOCABULARY,
    label_table,
    tiny_labeller,
    tiny_model,
    tiny_seq2seq,
    token_table,
)

from ray_pipeline.core.storage import Storage
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.train.forward import OnlineTeacher
from ray_pipeline.train.loop import Loop, LoopConfig, World
from ray_pipeline.train.losses import Objective
from ray_pipeline.train.replica import Sharded, Whole


def train(
    world: World,
    hold: str = "whole",
    steps: int = 0,
    folder: Path | None = None,
    optimizer: Any = "adamw",
    batch_tokens: int = 60,
) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Rows and steps such that the last step has one row: fewer than ranks."""
    is_causal = hold in ("whole", "sharded")
    rows = label_table if hold == "labels" else token_table
    if hold == "labels":
        model = tiny_labeller(seed=1)
    else:
        model = tiny_model("llama", seed=1) if is_causal else tiny_seq2seq(hold, seed=1)
    figures: list[dict] = []
    replica = Sharded(model, "cpu") if hold == "sharded" else Whole(model)
    Loop(
        replica,
        BatchPlan(TokenRows(rows(17)), BatchConfig(step_rows=8, batch_tokens=batch_tokens)),
        Objective(0.4664, 0.2081, 2.0) if is_causal else Objective(),
        LoopConfig(
            optimizer=optimizer,
            learning_rate=1e-2,
            epochs=2,
            clip_norm=0.5,
            evaluate_every=2,
            schedule="constant",
            max_steps=steps or None,
        ),
        teacher=OnlineTeacher(tiny_model("llama", seed=2), VOCABULARY) if is_causal else None,
        validation=BatchPlan(TokenRows(rows(5, seed=5)), BatchConfig(batch_tokens=60)),
        world=world,
        checkpoints=Checkpoints(Storage(str(folder)), "checkpoints") if folder else None,
        report=figures.append,
    ).run()
    return figures, replica.weights()


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=size
    )
    figures, weights = train(
        World.of_process_group(), sys.argv[4], int(sys.argv[5]), folder, sys.argv[6]
    )
    (folder / f"figures-{rank}.json").write_text(json.dumps(figures))
    torch.save(weights, folder / f"weights-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
