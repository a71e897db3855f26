"""Does distilling help? A student under its teacher against the same student alone, over seeds.

    python benchmarks/distillation.py --rows FILE.jsonl [--run-dir RUN] [--objective a,b,T ...]

SmolLM2-135M is fine-tuned on the rows, by the command, and is the teacher; what it says about every
answer token is stored. A third of its layers are the student. For each seed, which orders the rows,
a student takes the same steps with each objective α, β, T; ``1,0,1`` is the student alone. Measured
is the perplexity over the answers of held-out rows. With --run-dir the teacher is kept for another
call.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _runs import BENCHMARKS, run_config
from _training_rows import MODEL, seconds

from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.text import perplexity
from ray_pipeline.models import packaged as models
from ray_pipeline.rundir.layout import CACHE, SPLIT
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.train.batches import BatchConfig, BatchPlan
from ray_pipeline.train.chosen_rows import token_rows
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.held_out import answer_nats
from ray_pipeline.train.loop import Loop, LoopConfig
from ray_pipeline.train.losses import Objective
from ray_pipeline.train.replica import Whole
from ray_pipeline.train.student import StudentConfig, load, make_student
from ray_pipeline.train.teacher_cache import CachedTeacher, cache_table

BATCHES = {"step_rows": 16, "batch_tokens": 2048}
#: α, β, T: without a teacher; of the original experiment; KL term and cross-entropy weighted alike.
OBJECTIVES = ["1,0,1", "0.4664,0.2081,0.7", "0.5,0.5,1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--question", default="instruction", help="column")
    parser.add_argument("--answer", default="response", help="column")
    parser.add_argument("--limit", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--objective", nargs="*", default=OBJECTIVES, help="alpha,beta,T")
    parser.add_argument("--run-dir", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = arguments.run_dir or Path(folder, "run")
        _make_teacher(Path(folder), run_dir, arguments)
        bench = _Bench(run_dir, arguments)
        print(f"teacher before {bench.held_out(load(models.resolve(MODEL))):.3f}")
        print(f"teacher {bench.held_out(bench.teacher):.3f}")
        print(f"student before {bench.held_out(bench.student()):.3f}", flush=True)
        measured: dict[str, list[float]] = {one: [] for one in arguments.objective}
        for seed in arguments.seeds:
            for one, found in measured.items():
                found.append(bench.trained(_objective(one), seed))
                print(f"seed {seed}: {one}: {found[-1]:.3f}", flush=True)
        for one, found in measured.items():
            print(f"{one}: mean {statistics.mean(found):.3f}, {min(found):.3f} to {max(found):.3f}")


def _objective(text: str) -> Objective:
    return Objective(*map(float, text.split(",")))


def _make_teacher(folder: Path, run_dir: Path, arguments: argparse.Namespace) -> None:
    """Split, tokens, teacher and its log-probabilities: a run of the command."""
    config = {
        "name": "distillation",
        "job": str(BENCHMARKS / "distillation_job.py"),
        "run_dir": str(run_dir),
        "source": {
            "path": str(arguments.rows),
            "columns": {"question": arguments.question, "answer": arguments.answer},
            "limit": arguments.limit,
        },
        "stages": {
            "split": {"validation": 0.0, "test": 0.25},
            "tokenise": {"model": MODEL, "text": {"max_tokens": 96, "style": "plain"}},
            "train-teacher": {
                "model": MODEL,
                "loop": {"epochs": 1, "learning_rate": 1e-4, "precision": "bfloat16"},
                "batches": BATCHES,
            },
            "teacher-log-probs": {"precision": "bfloat16"},
        },
        "export": {"formats": []},
    }
    spent = seconds(lambda: run_config(folder, config, "--until", "teacher-log-probs"))
    print(f"teacher and its log-probabilities: {spent:.0f} s", flush=True)


class _Bench:
    """Rows, teacher and cache of the run."""

    def __init__(self, run_dir: Path, arguments: argparse.Namespace) -> None:
        from transformers import AutoTokenizer

        (folder,) = run_dir.glob("stages/*-teacher-log-probs")
        parts = sorted((folder / "rows").glob("*.parquet"))
        paths = tuple(str(part.relative_to(run_dir)) for part in parts)
        rows = StoredRows(Storage(str(run_dir)), paths, "")
        self.rows, self.test = token_rows(rows, "train"), token_rows(rows, "test")
        self.cache, self.info = cache_table(rows.mapped(CACHE, **{SPLIT: "train"}))
        self.tokenizer = AutoTokenizer.from_pretrained(run_dir / "models/teacher")
        self.teacher = load(str(run_dir / "models/teacher"))
        self.epochs, self.learning_rate = arguments.epochs, arguments.learning_rate
        print(
            f"{len(self.rows)} rows of {self.rows.lengths.mean():.0f} tokens, of which "
            f"{self.rows.answer_tokens.mean():.0f} of the answer; {len(self.test)} held out"
        )

    def student(self) -> Any:
        return make_student(StudentConfig(every=3), self.teacher, self.tokenizer)

    def held_out(self, model: Any) -> float:
        """Perplexity over the answers of the test rows."""
        batches = BatchPlan(self.test, BatchConfig(**BATCHES)).in_order()
        return perplexity(*answer_nats(AnswerModel(model), batches, "cpu", "bfloat16"))

    def trained(self, objective: Objective, seed: int) -> float:
        """The same of a student after its training."""
        student = self.student()
        config = LoopConfig(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            schedule="linear",
            precision="bfloat16",
            seed=seed,
        )
        cached = CachedTeacher(self.cache, self.rows, self.info) if objective.beta else None
        plan = BatchPlan(self.rows, BatchConfig(**BATCHES), seed)
        Loop(Whole(student), plan, objective, config, teacher=cached).run()
        return self.held_out(student)


if __name__ == "__main__":
    main()
