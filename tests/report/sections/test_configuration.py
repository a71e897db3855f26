from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_run import made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.configuration import read


def test_shows_the_configuration_prompts_and_exports(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.storage.write_bytes("prompts/ask.yaml", b"system: Be brief <i>\n")
    run.storage.write_bytes("exports/sub/a.csv", b"a\n")
    run.storage.write_bytes("exports/b.csv", b"b\n")
    section = read(ReportReader(run.storage.root))
    assert section.prompts == [("prompts/ask.yaml", "system: Be brief <i>\n")]
    assert section.exports == ["b.csv", "sub/a.csv"]
    found = page(run)
    assert "tiny-writer" in found.text and "Be brief <i>" in found.text and "i" not in found.names
    assert "Files under exports/: b.csv, sub/a.csv." in found.words


def test_a_run_without_a_configuration(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.storage.delete("config.yaml")
    assert "This run directory has no config.yaml." in page(run).words
