from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_run import MadeRun, made_run

from ray_pipeline.report.leaks import leak_warning, leaks
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.leak import read


def run_with(folder: Path, counts: dict[str, int]) -> MadeRun:
    run = made_run(str(folder))
    run.accounts["tidy"].counts = counts
    run.save()
    return run


def test_a_leak_stands_before_all_figures(tmp_path: Path) -> None:
    run = run_with(
        tmp_path,
        {
            "test rows": 208,
            "test rows with a twin in train": 82,
            "test rows with a twin in best": 2,
        },
    )
    reader = ReportReader(run.storage.root)
    found = read(reader)
    assert found is not None
    assert [(leak.name, leak.rows, leak.is_large) for leak in found] == [
        ("train", 82, True),
        ("best", 2, False),
    ]
    shown = page(run)
    warning = "82 of 208 test rows (39.4 %) have a twin among the training rows"
    assert warning in shown.words
    assert shown.words.index(warning) < shown.words.index("rows read")
    assert "Test rows with a twin in training" in shown.words


def test_no_twin_is_a_figure_and_no_warning(tmp_path: Path) -> None:
    run = run_with(tmp_path, {"test rows": 208})
    entries = ReportReader(run.storage.root).ledger.entries
    assert [(leak.name, leak.rows) for leak in leaks(entries)] == [("train", 0)]
    assert leak_warning(entries) is None


def test_a_run_without_the_stage_has_no_section(tmp_path: Path) -> None:
    assert read(ReportReader(made_run(str(tmp_path)).storage.root)) is None
