"""Runs that are large, unfinished, damaged, or have columns of somebody's own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.html_page import page
from support.made_qa_run import Row, made_qa_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections import duplicates, embedding_map, versions
from ray_pipeline.rundir.checksums import DamagedFile


def test_the_page_of_a_small_run_stays_small(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path))
    page(run)
    assert run.storage.local_path("report.html").stat().st_size < 500_000


@pytest.mark.parametrize(
    ("column", "section"),
    [
        ("embedding", "map"),
        ("duplicate_of", "duplicates"),
        ("version", "versions"),
        ("question", None),
        ("outlier_cluster", None),
        ("duplicate_similarity", None),
        ("similarity", None),
        ("source_question", None),
    ],
)
def test_sections_are_absent_without_their_columns(
    tmp_path: Path, column: str, section: str | None
) -> None:
    anchors = set(page(made_qa_run(str(tmp_path), 40, without=(column,))).sections)
    assert anchors >= {"account", "map", "duplicates", "versions", "lengths"} - {section}
    assert section not in anchors


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("version", 3),
        ("similarity", "high"),
        ("similarity", float("nan")),
        ("outlier_cluster", "first"),
        ("outlier_score", float("inf")),
        ("outlier_score", True),
        ("outlier_rule", 4),
        ("duplicate_of", 17),
        ("duplicate_similarity", "much"),
        ("same_question_group", 5),
        ("embedding", "vector"),
        ("source_question", 1.5),
        ("question", 8),
    ],
)
def test_columns_that_only_have_the_name_do_no_harm(
    tmp_path: Path, column: str, value: object
) -> None:
    # A source may well have a column `version` or `similarity` of its own.
    def change(stage: str, row: Row) -> None:
        if column in row or stage == "augment-formal":
            row[column] = value

    types = {column: pa.array([value]).type}
    run = made_qa_run(str(tmp_path), 40, until="augment-formal", types=types, change=change)
    assert page(run).tags


def test_a_run_without_rows_has_no_sections_of_rows(tmp_path: Path) -> None:
    anchors = set(page(made_qa_run(str(tmp_path), 0)).sections)
    assert not anchors & {"map", "duplicates", "versions", "lengths", "shared-texts"}


def test_a_part_that_is_gone_leaves_its_sections_out_of_the_report_and_is_named(
    tmp_path: Path,
) -> None:
    run = made_qa_run(str(tmp_path), 100, unit_rows=20)
    gone = [
        f"{run.folder(stage)}/rows/part-{run.units[1].unit_id}.parquet"
        for stage in ("accept-paraphrases", "augment-formal", "deduplicate")
    ]
    for path in gone:
        run.storage.delete(path)
    run.save("failed", "disk full")
    with pytest.raises(DamagedFile, match=r"report\.html is not complete: .* is missing"):
        page(run)
    text = (tmp_path / "report.html").read_text()
    assert all(f"{path} is missing" in text for path in gone)
    assert "disk full" in text and 'id="account"' in text and 'id="reasons"' not in text


@pytest.mark.slow
def test_many_rows_make_no_larger_report(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 12_000, unit_rows=512)
    reader = ReportReader(run.storage.root)
    drawn = embedding_map.read(reader)
    assert drawn is not None and drawn.points <= 1_800
    counted = versions.read(reader)
    assert counted is not None and counted.units <= len(run.units)
    grouped = duplicates.read(reader)
    assert grouped is not None and len(grouped.largest) <= 6
    page(run)
    assert run.storage.local_path("report.html").stat().st_size < 3_000_000
