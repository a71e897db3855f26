"""Does distilling help? A student under its teacher against the same student alone, over seeds.

    python benchmarks/distillation.py --rows QUESTIONS.csv [--set stages.distil.beta=0.5 ...]

SmolLM2-135M is fine-tuned on the rows and is the teacher; a third of its layers are the student.
For each seed (which orders the rows) both students take the same steps; measured is the perplexity
over the answers of held-out rows. The run is kept where --run-dir says, so that another objective
(--set) uses the same teacher.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _runs import BENCHMARKS, run_config
from _training_rows import MODEL

from ray_pipeline import models
from ray_pipeline.evaluate.text_metrics import perplexity
from ray_pipeline.storage import Storage
from ray_pipeline.stored_rows import StoredRows
from ray_pipeline.train.batches import BatchConfig, BatchPlan
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.job import token_rows
from ray_pipeline.train.loop import answer_nats
from ray_pipeline.train.student import StudentConfig, load, make_student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="CSV: Question, Answer")
    parser.add_argument("--limit", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--set", action="append", default=[], help="of the run's configuration")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = arguments.run_dir or Path(folder, "run")
        measured: dict[str, list[float]] = {"distilled": [], "alone": []}
        for seed in range(arguments.seeds):
            _run(Path(folder), run_dir, arguments, seed)
            for name, model in (("distilled", "student"), ("alone", "student-alone")):
                measured[name].append(_held_out(run_dir, load(str(run_dir / "models" / model))))
            print(f"seed {seed}: " + _listed(measured), flush=True)
        teacher = load(str(run_dir / "models" / "teacher"))
        print(f"teacher {_held_out(run_dir, teacher):.3f}")
        print(f"teacher before {_held_out(run_dir, load(models.resolve(MODEL))):.3f}")
        before = make_student(StudentConfig(every=3), teacher, _tokenizer(run_dir))
        print(f"student before {_held_out(run_dir, before):.3f}")
        for name, values in measured.items():
            spread = f"{min(values):.3f} to {max(values):.3f}"
            print(f"{name}: mean {statistics.mean(values):.3f}, {spread}")
        metrics = json.loads((run_dir / "metrics.json").read_text())
        print(json.dumps({name: metrics[name] for name in ("train-teacher", "distil")}))


def _listed(measured: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {values[-1]:.3f}" for name, values in measured.items())


def _tokenizer(run_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(run_dir / "models/teacher")


def _run(folder: Path, run_dir: Path, arguments: argparse.Namespace, seed: int) -> None:
    batches = {"step_rows": 32, "batch_tokens": 4096}
    loop = {"precision": "bfloat16", "schedule": "linear"}
    config = {
        "name": "distillation",
        "job": str(BENCHMARKS / "distillation_job.py"),
        "run_dir": str(run_dir),
        "source": {
            "path": str(arguments.rows),
            "columns": {"question": "Question", "answer": "Answer"},
            "limit": arguments.limit,
        },
        "stages": {
            "split": {"validation": 0.1, "test": 0.2},
            "tokenise": {"model": MODEL, "text": {"max_tokens": 96, "style": "plain"}},
            "train-teacher": {
                "model": MODEL,
                "loop": {**loop, "epochs": 2, "learning_rate": 1e-4},
                "batches": batches,
            },
            "teacher-log-probs": {"precision": "bfloat16"},
            "distil": {
                "loop": {**loop, "epochs": 4, "learning_rate": 5e-4, "seed": seed},
                "batches": batches,
            },
        },
        "export": {"formats": []},
    }
    options = [word for assignment in arguments.set for word in ("--set", assignment)]
    run_config(folder, config, *options)


def _held_out(run_dir: Path, model: Any) -> float:
    """Perplexity over the answers of the test rows."""
    (folder,) = run_dir.glob("stages/*-teacher-log-probs")
    parts = sorted((folder / "rows").glob("*.parquet"))
    storage = Storage(str(run_dir))
    paths = tuple(str(part.relative_to(run_dir)) for part in parts)
    rows = token_rows(StoredRows(storage, paths, ""), "test")
    batches = BatchPlan(rows, BatchConfig(batch_tokens=4096)).in_order()
    return perplexity(*answer_nats(AnswerModel(model), batches, "cpu"))


if __name__ == "__main__":
    main()
