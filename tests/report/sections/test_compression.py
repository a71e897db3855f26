from __future__ import annotations

from pathlib import Path
from typing import Any

from support.html_page import page
from support.made_run import MadeRun, made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.compression import read


def mean(value: float) -> dict[str, Any]:
    return {"mean": value, "low": value - 0.1, "high": value + 0.1, "number": 40}


def system(name: str, matched: str, ratio: float, nats: float) -> dict[str, Any]:
    overlap = {"rouge1": 0.9, "rouge2": 0.8, "rougeL": 0.85, "rougeLsum": 0.85}
    return {
        "name": name, "matched": matched, "draws": 5 if "random" in name else 1, "rows": 50,
        "before": 500, "after": 400, "total_ratio": ratio, "mean_ratio": ratio, "p90_ratio": 1.0,
        "violations": 1, "rouge": overlap, "rouge_of_compression": overlap,
        "similarity": mean(0.8), "added_nats": mean(nats), "agreement": None,
    }  # fmt: skip


EVALUATION: dict[str, Any] = {
    "rows": 50, "families": 40, "left_out": {"about a passage": 8, "no response": 0},
    "judge": "<b>smollm2", "chooser": "<b>smollm2", "compressor": "<b>gpt2", "tokenizer": "gpt2",
    "answers_compared": 10, "agreement_tokens": 48, "ceiling": mean(0.5),
    "systems": [
        system("original", "", 1.0, 0.0), system("empty prompt", "", 0.0, 1.4),
        system("generated", "", 0.8, 0.2), system("random words", "generated", 0.8, 0.3),
        system("random words", "rate 0.6", 0.6, 0.6),
    ],
    "comparisons": [
        {"system": "generated", "than": "rules", "difference": mean(0.05), "p_holm": 0.3},
        {"system": "generated", "than": "random words", "difference": mean(-0.3), "p_holm": 0.01},
        {"system": "trained", "than": "rules", "difference": mean(-0.3), "p_holm": 0.06},
    ],
    "break_even": {
        "saved_tokens": 2000.4, "compressing_tokens": 119_000, "compressing_prompt_tokens": 112_000,
        "compressing_completion_tokens": 7_000, "saved_dollars": 0.002, "uses": 35,
        "saved_dollars_cached": 0.0002, "compressing_dollars": 0.07,
        "compressing_dollars_cached": 0.02, "uses_cached": None,
    },
}  # fmt: skip
STEP = {"rouge1": 0.7, "rouge2": None, "rougeL": 0.6, "rougeLsum": 0.6, "total_ratio": 0.8,
        "mean_ratio": 0.8, "p90_ratio": 1.0, "violations": 0.02, "cut": 0.0}  # fmt: skip
TRAINING = {
    "base": "minilm", "form": "keep_or_drop", "rows": 70, "steps": 10, "best_step": 10,
    "max_new_tokens": 30, "evaluations": [
        {"step": 0, "validation_loss": 0.7, **STEP}, {"step": 10, "validation_loss": 0.3, **STEP},
    ],
}  # fmt: skip


def run_with(folder: Path, **figures: Any) -> MadeRun:
    run = made_run(str(folder))
    for stage, found in figures.items():
        run.add_artifact_stage(stage.replace("_", "-"), found)
    return run.save()


def test_a_run_without_compressions_has_no_such_section(tmp_path: Path) -> None:
    assert read(ReportReader(run_with(tmp_path).storage.root)) is None


def test_what_beats_no_baseline_is_told_first(tmp_path: Path) -> None:
    run = run_with(tmp_path, evaluate_compressions=EVALUATION, train_compressor=TRAINING)
    section = read(ReportReader(run.storage.root))
    assert section is not None
    trained, generated, same = section.sentences
    assert "trained prompts cost a model no less than any baseline: rules" in trained
    assert "less than random words; not less than rules" in generated
    assert "smollm2, is also the one that finds words surprising" in same
    # An empty prompt is no way to shorten: it is in the table, not in the chart.
    assert [key.name for key in section.keys] == ["generated", "random words"]
    assert "8 about a passage" in section.measured and "50 test prompts of 40" in section.measured
    assert [line.name for line in section.epochs[:2]] == ["before training", "step 10, kept"]
    assert section.epochs[0].cells[2].text == "–"  # ROUGE-2 was not measurable
    assert section.break_even[1].endswith("from no number of uses.")
    html = page(run)
    for words in ("What shorter prompts cost", "<b>smollm2", "at the tokens of generated (5 draws)",
                  "0.7873", "lower than that before training"):  # fmt: skip
        assert words in html.words, words


def test_a_run_that_only_trained_shows_that(tmp_path: Path) -> None:
    run = run_with(tmp_path, train_compressor=TRAINING)
    section = read(ReportReader(run.storage.root))
    assert section is not None and section.systems == [] and section.chart is None
    assert "What shorter prompts cost" in page(run).words
