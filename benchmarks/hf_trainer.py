"""This project's training loop and the Hugging Face Trainer: tokens a second of the same student.

    python benchmarks/hf_trainer.py --rows FILE.jsonl [--rounds 3] [--bfloat16]

Both train a student of every third layer of SmolLM2-135M in the same precision, 32 rows a step in
micro-batches. The Trainer gets labels of -100 outside the answers and pads each micro-batch to its
longest row. Sides: the Trainer; our loop on the Trainer's own micro-batches (random rows, so many a
micro-batch); our loop with its batches by length, within windows of four steps. Tokens are real
ones: padding is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from _training_rows import MODEL, real_rows, seconds, tokenizer

from ray_pipeline.models import packaged as models
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.loop import Loop, LoopConfig
from ray_pipeline.train.replica import Whole
from ray_pipeline.train.student import StudentConfig, load, make_student

STEP_ROWS = 32


class AsTheyCome(BatchPlan):
    """A step's rows cut into micro-batches in their random order, as the Trainer's are."""

    def _cut(self, rows: Any) -> list[Any]:
        size = self.config.batch_rows or len(rows)
        return [rows[start : start + size] for start in range(0, len(rows), size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="JSONL: instruction, response")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--micro-rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()

    rows = real_rows(arguments.rows, STEP_ROWS * arguments.steps, 512)
    student = make_student(StudentConfig(every=3), load(models.resolve(MODEL)), tokenizer())
    precision = "bfloat16" if arguments.bfloat16 else "float32"
    config = LoopConfig(precision=precision, epochs=1, learning_rate=1e-6, schedule="constant")
    plain = BatchConfig(step_rows=STEP_ROWS, batch_tokens=10**9, batch_rows=arguments.micro_rows)
    buckets = BatchConfig(step_rows=STEP_ROWS, batch_tokens=2048, window_steps=4)
    plans = {
        "ours, their batches": AsTheyCome(rows, plain),
        "ours, by length": BatchPlan(rows, buckets),
    }
    for name, plan in plans.items():
        print(f"{name}: {plan.real_share():.3f} of all tokens are real")
    tokens = int(rows.lengths.sum())
    results: dict[str, list[float]] = {name: [] for name in ("Trainer", *plans)}
    for number in range(arguments.rounds):
        results["Trainer"].append(tokens / _trainer_seconds(student, rows, arguments))
        for name, plan in plans.items():
            results[name].append(tokens / seconds(Loop(Whole(student), plan, config=config).run))
        listed = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in results.items())
        print(f"round {number + 1}: tokens/s {listed}", flush=True)
    for name in plans:
        ratios = [a / b for a, b in zip(results[name], results["Trainer"], strict=True)]
        print(f"{name} / Trainer: {statistics.median(ratios):.3f}")


def _trainer_seconds(student: Any, rows: TokenRows, arguments: Any) -> float:
    from transformers import Trainer, TrainingArguments

    data = [
        {
            "input_ids": torch.from_numpy(rows.ids(i)).long(),
            "labels": torch.where(
                torch.from_numpy(rows.mask(i)), torch.from_numpy(rows.ids(i)).long(), -100
            ),
        }
        for i in range(len(rows))
    ]

    def collate(some: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([one["input_ids"] for one in some], batch_first=True)
        labels = pad([one["labels"] for one in some], batch_first=True, padding_value=-100)
        attended = pad([torch.ones_like(one["input_ids"]) for one in some], batch_first=True)
        return {"input_ids": ids, "labels": labels, "attention_mask": attended}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=student,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=arguments.micro_rows,
                gradient_accumulation_steps=STEP_ROWS // arguments.micro_rows,
                num_train_epochs=1,
                learning_rate=1e-6,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                weight_decay=0.01,
                bf16=arguments.bfloat16,
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=data,
            data_collator=collate,
        )
        return seconds(trainer.train)


if __name__ == "__main__":
    main()
