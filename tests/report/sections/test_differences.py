"""The table of differences between models: every interval, and what is clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.html_page import page
from support.made_trained_run import made_trained_run, metrics

from ray_pipeline.report.model_differences import read_differences
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.differences import read


def entry(than: str, metric: str, *values: float | None, questions: int = 20) -> dict[str, Any]:
    names = {"model": "student", "than": than, "metric": metric}
    return {
        **names,
        **dict(zip(("value", "low", "high"), values, strict=True)),
        "questions": questions,
    }


ENTRIES = [
    entry("student-alone", "perplexity", 0.8, 0.7, 0.9, questions=31),
    entry("student-alone", "rouge_l", 0.02, -0.01, 0.05),
    entry("teacher", "perplexity", 1234.5, 900.0, 2000.0, questions=31),
    entry("teacher", "exact_match", -0.5, -0.75, -0.25),
]


def with_differences(folder: Path, entries: Any) -> Any:
    figures = {**metrics(60)["evaluate"], "differences": entries}
    return made_trained_run(str(folder), change={"evaluate": figures})


def test_every_comparison_has_its_line(tmp_path: Path) -> None:
    run = with_differences(tmp_path, ENTRIES)
    section = read(ReportReader(run.storage.root))
    assert section is not None
    assert section.metrics == ["perplexity", "ROUGE-L", "exact match"]
    assert (section.questions, section.test_questions) == (20, 31)
    alone, teacher = section.comparisons
    assert (alone.model, alone.than) == ("student, distilled", "student, trained alone")
    assert [cell and (cell.text, cell.interval, cell.is_clear) for cell in alone.cells] == [
        ("0.80 ×", "0.70 × to 0.90 ×", True),
        ("+0.0200", "−0.0100 to +0.0500", False),
        None,
    ]
    assert teacher.cells[1] is None
    assert teacher.cells[0] is not None and teacher.cells[0].text == "1.2e+03 ×"
    shown = page(run)
    assert "over 20 independent questions (31 for the perplexity)" in shown.words


def test_a_single_question_has_no_interval(tmp_path: Path) -> None:
    run = with_differences(tmp_path, [entry("teacher", "bleu", 3.0, None, None, questions=1)])
    assert "+3.00no interval" in page(run).words.replace(" no interval", "no interval")
    (one,) = read_differences({"differences": [entry("teacher", "bleu", 3.0, None, None)]})
    assert not one.is_clear


@pytest.mark.parametrize("entries", [None, [], {}, "x", [5], [{}], [{"value": 1.0}]])
def test_what_is_no_difference_is_left_out(tmp_path: Path, entries: Any) -> None:
    run = with_differences(tmp_path, entries)
    assert read(ReportReader(run.storage.root)) is None
    assert "differences" not in page(run).sections
