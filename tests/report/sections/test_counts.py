from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_run import made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.counts import read


def test_shows_every_counter(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.accounts["augment"].counts = {"b": 2, "A": 3}
    reader = ReportReader(run.save().storage.root)
    assert read(reader) == [("tidy", [("looked at", 8)]), ("augment", [("A", 3), ("b", 2)])]
    assert "looked at8" in page(run).words


def test_without_counters_the_section_says_so(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.accounts["tidy"].counts = {}
    assert "No stage of this run counted anything" in page(run.save()).words
