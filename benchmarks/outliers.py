"""Outliers: who finds rows of another kind; what clustering in parts costs and changes.

    python benchmarks/outliers.py planted --rows QUESTIONS.csv
    python benchmarks/outliers.py parts --rows DATA.jsonl [DATA.csv ...]

`planted` runs `qa_distillation` up to the verdict on 2,000 real rows (a CSV with Question and
Answer) and the forty of planted_rows.yaml, with every row judged, and counts what the rules, the
clusters and the judge find, alone and together.

`parts` clusters 5,000 rows at once and in parts and compares; then 100,000 rows in parts.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from _runs import BENCHMARKS, run_config
from near_duplicates import corpus, real_rows
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

MAX_SCORE = 0.3


def stage_rows(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    parts = sorted(run_dir.glob(f"stages/*-{stage}/rows/*.parquet"))
    return pa.concat_tables(pq.read_table(part) for part in parts).sort_by("row_id").to_pylist()


def planted(files: Sequence[Path], folder: Path, rows: int) -> None:
    plants = yaml.safe_load((BENCHMARKS / "planted_rows.yaml").read_text())
    with files[0].open(newline="", encoding="utf-8", errors="replace") as lines:
        real = [(row["Question"], row["Answer"], "") for row in csv.DictReader(lines)][:rows]
    bad = [(question, answer, kind) for kind, pairs in plants.items() for question, answer in pairs]
    source = folder / "rows.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("Question", "Answer", "planted"), *real, *bad])
    configs = BENCHMARKS.parent / "configs"
    prompts = configs / "prompts" / "qa_distillation"
    config = yaml.safe_load((configs / "qa_distillation" / "local.yaml").read_text())
    config |= {
        "job": str(BENCHMARKS.parent / "jobs" / "qa_distillation.py"),
        "run_dir": str(folder / "run"),
        "source": {"path": str(source), "columns": {"question": "Question", "answer": "Answer"}},
        "save_every_stage": False,
    }
    config["stages"]["outliers"] |= {"judge": "all"}
    for stage in config["stages"].values():
        if "prompt" in stage:
            stage["prompt"] = str(prompts / f"{stage['prompt']}.yaml")
    config["stages"]["outliers"]["prompt"] = str(prompts / "outlier_judge.yaml")
    run_dir = run_config(folder, config, "--until", "outliers")
    found = stage_rows(run_dir, "outliers")
    print(f"{len(found)} rows reach the verdict, {sum(bool(r['planted']) for r in found)} planted")
    rules = {r["row_id"] for r in found if r["outlier_rule"]}
    clusters = {
        r["row_id"]
        for r in found
        if r["outlier_cluster"] == -1 and (r["outlier_score"] or 0) > MAX_SCORE
    }
    judge = {r["row_id"] for r in found if r["outlier_verdict"] not in (None, "question")}
    ways = {
        "rules": rules,
        "clusters": clusters,
        "judge": judge,
        "rules or clusters (suspects)": rules | clusters,
        "suspects that the judge confirms": (rules | clusters) & judge,
        "rules, or clusters that the judge confirms": rules | clusters & judge,
        "any two of the three": rules & clusters | rules & judge | clusters & judge,
        "all three": rules & clusters & judge,
    }
    kinds = {r["row_id"]: r["planted"] for r in found if r["planted"]}
    for name, flagged in ways.items():
        right = flagged & set(kinds)
        by_kind = {k: sum(kinds[i] == k for i in right) for k in plants}
        print(
            f"{name:45s} flagged {len(flagged):4d}  recall {len(right) / len(kinds):.2f}  "
            f"precision {len(right) / max(1, len(flagged)):.2f}  {json.dumps(by_kind)}"
        )


def cluster(
    folder: Path, source: Path, exact_rows: int, part_rows: int = 4_000, **embed: Any
) -> tuple[Path, dict[str, float]]:
    config = {
        "name": "outliers",
        "job": str(BENCHMARKS / "outliers_job.py"),
        "run_dir": str(folder / "run"),
        "seed": 7,
        "source": {"path": str(source)},
        "embedder": {"model": "all-minilm-l6-v2"},
        "stages": {
            "outlier-clusters": {"exact_rows": exact_rows, "part_rows": part_rows},
            "embed": embed,
        },
        "export": {"formats": []},
    }
    run_dir = run_config(folder, config)
    return run_dir, json.loads((run_dir / "ledger.json").read_text())["phases"]


def parts(files: Sequence[Path], folder: Path, rows: int) -> None:
    def source(number: int) -> Path:
        texts = corpus(real_rows(files), number, seed=7)
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table({"question": texts, "answer": [""] * number}), path)
        return path

    small = source(5_000)
    run_dir, phases = cluster(folder, small, 10_000)
    exact, exact_seconds = stage_rows(run_dir, "outlier-clusters"), phases["decide"]
    for part_rows in (4_000, 1_000):
        run_dir, phases = cluster(folder, small, 100, part_rows)
        cut = stage_rows(run_dir, "outlier-clusters")
        spent = phases["decide"]
        print(f"5,000 rows: at once {exact_seconds:.1f} s, in parts of {part_rows} {spent:.1f} s")
        compare(exact, cut)
    large = folder / "large"
    large.mkdir()
    # The clustering is what is measured here: short texts make the embeddings cheap.
    _, phases = cluster(large, source(rows), 10_000, bfloat16=True, max_tokens=16, actors=2)
    print(f"{rows} rows in parts: {phases['decide']:.0f} s (and {json.dumps(phases)})")


def _top(scores: Any, number: int = 400) -> set[int]:
    return set(np.argsort(-scores, kind="stable")[:number].tolist())


def compare(exact: list[dict[str, Any]], cut: list[dict[str, Any]]) -> None:
    scores = [np.array([row["outlier_score"] for row in found]) for found in (exact, cut)]
    labels = [np.array([row["outlier_cluster"] for row in found]) for found in (exact, cut)]
    noise = [label < 0 for label in labels]
    suspects = [alone & (score > MAX_SCORE) for alone, score in zip(noise, scores, strict=True)]
    both = ~noise[0] & ~noise[1]
    figures = {
        "suspects at once": int(suspects[0].sum()),
        "suspects in parts": int(suspects[1].sum()),
        "suspects in common": int((suspects[0] & suspects[1]).sum()),
        "in common among the 400 highest scores": len(_top(scores[0]) & _top(scores[1])),
        "rank correlation of scores": round(float(spearmanr(*scores).statistic), 3),
        "outside of clusters, at once": round(float(noise[0].mean()), 3),
        "outside of clusters, in parts": round(float(noise[1].mean()), 3),
        "agreeing on that": round(float((noise[0] == noise[1]).mean()), 3),
        "adjusted Rand index of rows in clusters both times": round(
            float(adjusted_rand_score(labels[0][both], labels[1][both])), 3
        ),
    }
    print(json.dumps(figures, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["planted", "parts"])
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--number", type=int, help="rows: 2,000 planted among, 100,000 in parts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "planted":
            planted(options.rows, Path(folder), options.number or 2_000)
        else:
            parts(options.rows, Path(folder), options.number or 100_000)


if __name__ == "__main__":
    main()
