from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_qa_run import STYLES, Row, made_qa_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.versions import Versions, read


def versions_of(folder: str) -> Versions:
    section = read(ReportReader(folder))
    assert section is not None
    return section


def test_versions_add_up_to_the_ledger(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path))
    section = versions_of(run.storage.root)
    assert [style.version for style in section.styles] == list(STYLES)
    for style in section.styles:
        assert style.made == run.accounts[f"augment-{style.version}"].created
        assert style.made == style.accepted + sum(style.reasons.values())
    reasons = run.accounts["accept-paraphrases"].reasons
    for reason in section.reasons:
        assert sum(style.reasons.get(reason, 0) for style in section.styles) == reasons[reason]
    assert set(section.reasons) == set(reasons)
    assert len(section.families) == 12
    for family in section.families:
        assert [version.version for version in family.versions] == list(STYLES)
        assert dict(family.original)["question"].startswith("What do ")
    assert "Originals with their versions" in page(run).words


def test_originals_with_a_rejected_version_come_first(tmp_path: Path) -> None:
    families = versions_of(made_qa_run(str(tmp_path)).storage.root).families
    rejected = [any(v.reason is not None for v in family.versions) for family in families]
    assert rejected == sorted(rejected, reverse=True) and any(rejected)


def test_a_run_that_was_interrupted_shows_what_there_is(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 100, until="augment-casual").save("interrupted", "stopped")
    section = versions_of(run.storage.root)
    assert [style.version for style in section.styles] == ["formal", "casual"]
    assert all(style.accepted == style.made for style in section.styles)
    assert "stopped" in page(run).text


def test_a_column_with_many_values_is_something_else(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        if stage == "augment-formal":
            row["version"] = f"v{row['position']}"

    run = made_qa_run(str(tmp_path), 20, change=change, until="augment-formal")
    assert read(ReportReader(run.storage.root)) is None


def test_without_versions_there_is_no_section(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 20, until="clean-text")
    assert read(ReportReader(run.storage.root)) is None
