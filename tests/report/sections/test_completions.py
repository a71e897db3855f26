from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_run import made_run
from support.made_tradeoff_run import made_tradeoff_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.completions import FILE, read


def test_completions_stand_side_by_side_and_hostile_ones_stay_texts(tmp_path: Path) -> None:
    hostile = "<script>alert({n})</script>\x1b[31m"
    run = made_tradeoff_run(str(tmp_path), completion=hostile)
    made = read(ReportReader(run.storage.root))
    assert made is not None and (made.prompts, made.samples) == (3, 5)
    assert not made.has_reference_model and "reference model" not in page(run).text
    assert len(made.lines) == 12 and len(made.shown) == 2
    assert [len(model.texts) for model in made.shown[0].models] == [5] * 12
    assert made.shown[0].models[0].texts[4] == ""
    shown = page(run)
    assert "script" not in shown.names and "\x1b" not in shown.text
    assert "(empty)" in shown.text


def test_scores_have_their_intervals(tmp_path: Path) -> None:
    section = read(ReportReader(made_tradeoff_run(str(tmp_path)).storage.root))
    assert section is not None
    line = section.lines[0]
    assert len(line.scores) == len(section.measures) == 4
    mean, interval = line.scores[0]
    assert mean == "0.50" and " to " in interval
    assert (line.by_chance, line.ended, line.empty) == ("0.10", "75 %", "3")
    assert section.references == ["0.90", "–", "0.80", "–"]


def test_without_texts_the_scores_remain(tmp_path: Path) -> None:
    run = made_tradeoff_run(str(tmp_path))
    run.storage.delete(FILE)
    section = read(ReportReader(run.storage.root))
    assert section is not None and section.shown == [] and section.lines


def test_without_completions_there_is_no_section(tmp_path: Path) -> None:
    assert read(ReportReader(made_run(str(tmp_path)).storage.root)) is None
