from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from report.test_report import page
from support.made_qa_run import STYLES, MadeQaRun, Row, made_qa_run

from ray_pipeline.report.content import Content, gather
from ray_pipeline.report.reading import without_vectors
from ray_pipeline.report.sections.embedding_map import EmbeddingMap, embedding_map
from ray_pipeline.report.sections.groups import duplicates, shared
from ray_pipeline.report.sections.lengths import lengths
from ray_pipeline.report.sections.versions import versions
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs

HOSTILE = "<script>alert(1)</script></title></svg>\x1b[31m " + "x" * 100_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeQaRun:
    return made_qa_run(str(tmp_path_factory.mktemp("qa")))


@pytest.fixture(scope="module")
def content(run: MadeQaRun) -> Content:
    return gather(run.storage)


def test_the_account_of_the_made_run_is_right(run: MadeQaRun) -> None:
    run.ledger.check()


def test_the_flow_names_reasons_and_what_was_created(run: MadeQaRun, content: Content) -> None:
    by_name = {row.account.name: row for row in content.flow}
    assert 'class="created"' in by_name["augment-formal"].svg
    assert 'class="dropped"' in by_name["deduplicate"].svg
    assert by_name["deduplicate"].reasons == [("duplicate:near", 10), ("duplicate:exact", 8)]
    assert 'class="dropped"' not in by_name["embed"].svg


def test_the_map_shows_every_row_of_a_small_run(run: MadeQaRun, content: Content) -> None:
    found = content.map
    assert found is not None
    assert found.points == run.accounts["embed"].kept == found.of_rows
    assert found.method == "t-SNE" and found.without == 0
    assert sum(mark.points for mark in found.marks) == found.points
    drawn = {mark.kind: mark.points for mark in found.marks}
    dropped = run.accounts["find-outliers"].reasons | run.accounts["judge-outliers"].reasons
    assert found.reasons == dict(sorted(dropped.items()))
    assert {f"outlier:{kind[4:]}": drawn[kind] for kind in drawn if kind[:4] == "out-"} == dropped
    assert len([kind for kind in drawn if kind[0] == "c"]) == 5  # one for each topic
    assert found.outliers[0].score == pytest.approx(0.9)


def test_rows_that_mean_alike_lie_together(content: Content) -> None:
    assert content.map is not None
    places: dict[str, list[tuple[float, float]]] = {}
    for shape in content.map.svg.split("<circle ")[1:]:
        values = dict(item.split("=") for item in shape.split(">")[0].replace('"', "").split())
        places.setdefault(values["class"], []).append((float(values["cx"]), float(values["cy"])))
    centres = {kind: np.mean(points, axis=0) for kind, points in places.items() if kind[0] == "c"}
    for kind, centre in centres.items():
        radius = np.linalg.norm(np.array(places[kind]) - centre, axis=1).mean()
        others = [np.linalg.norm(centre - c) for name, c in centres.items() if name != kind]
        assert radius < min(others) / 2


def test_embeddings_that_are_no_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        if stage == "embed" and row["position"] % 10 == 0:
            row["embedding"] = None if row["position"] % 20 else [float("nan")] * 24

    run = made_qa_run(str(tmp_path), 60, change=change, until="judge-outliers")
    found = embedding_map(RunReader(run.storage.root))
    assert found is not None
    assert found.without == 5  # of six, one was dropped before
    assert found.points == run.accounts["embed"].kept - 5
    assert "5 drawn rows have no usable embedding" in page_text(run)


def test_few_rows_are_mapped_by_pca_and_one_is_not(tmp_path: Path) -> None:
    assert _map(made_qa_run(str(tmp_path / "few"), 12)).method == "PCA"
    run = made_qa_run(str(tmp_path / "one"), 1)
    assert embedding_map(RunReader(run.storage.root)) is None


def test_equal_embeddings_make_a_map_too(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        if stage == "embed":
            row["embedding"] = [0.5] * 24

    assert _map(made_qa_run(str(tmp_path), 40, change=change, until="embed")).points == 40


def _map(run: MadeQaRun) -> EmbeddingMap:
    found = embedding_map(RunReader(run.storage.root))
    assert found is not None
    return found


def test_duplicates_are_those_of_the_ledger(run: MadeQaRun, content: Content) -> None:
    found = content.duplicates
    assert found is not None and found.is_whole
    assert found.reasons == run.accounts["deduplicate"].reasons
    assert found.groups == 9
    largest = found.largest[0]
    assert largest.rows == 1 + found.reasons["duplicate:near"]
    assert largest.winner is not None and "case 3?" in dict(largest.winner.texts)["question"]
    similarities = [member.similarity or 0 for member in largest.members]
    assert similarities == sorted(similarities) and similarities[0] == pytest.approx(0.93)
    pair = found.largest[1]
    assert pair.winner is not None and pair.rows == 2
    # An exact duplicate asks the same question as the row that won, ten rows before.
    assert {text.split("case ")[1] for text in (_question(pair.winner), _question(pair.members[0]))}


def _question(member: object) -> str:
    return dict(member.texts)["question"]  # type: ignore[attr-defined]


def test_rows_with_one_question_are_grouped(run: MadeQaRun, content: Content) -> None:
    (found,) = [section for section in content.shared if section.groups]
    assert found.column == "same_question_group"
    kept = Rows(RunReader(run.storage.root), "deduplicate", "kept").to_arrow()
    keys = kept["same_question_group"].to_pylist()
    assert found.rows == sum(key is not None for key in keys)
    assert found.groups == len({key for key in keys if key is not None})
    assert all(len(group.members) == group.rows for group in found.largest)


def test_versions_add_up_to_the_ledger(run: MadeQaRun, content: Content) -> None:
    found = content.versions
    assert found is not None
    assert [style.version for style in found.styles] == list(STYLES)
    for style in found.styles:
        assert style.made == run.accounts[f"augment-{style.version}"].created
        assert style.made == style.accepted + sum(style.reasons.values())
    reasons = run.accounts["accept-paraphrases"].reasons
    for reason in found.reasons:
        assert sum(style.reasons.get(reason, 0) for style in found.styles) == reasons[reason]
    assert set(found.reasons) == set(reasons)
    assert len(found.families) == 12
    for family in found.families:
        assert [version.version for version in family.versions] == list(STYLES)
        assert dict(family.original)["question"].startswith("What do ")


def test_lengths_compare_the_source_with_what_was_kept(run: MadeQaRun, content: Content) -> None:
    found = content.lengths
    assert found is not None
    assert [column.column for column in found.columns] == ["question", "answer"]
    for column in found.columns:
        assert column.before.texts == 300
        assert column.after.texts == run.accounts["accept-paraphrases"].kept
        assert column.before.low <= column.before.median <= column.before.high


def test_effort_has_a_bar_for_every_stage_that_worked(run: MadeQaRun, content: Content) -> None:
    assert {row.account.name for row in content.effort} == set(run.accounts)
    tokens = {row.account.name: row.all_tokens for row in content.effort}
    assert tokens["augment-formal"] == run.accounts["augment-formal"].created * 85
    assert tokens["embed"] == 0


def page_text(run: MadeQaRun) -> str:
    return page(run).text


def test_the_page_has_all_sections_and_stays_small(run: MadeQaRun) -> None:
    text = page_text(run)
    for heading in (
        "The map of the embeddings, and its outliers",
        "Duplicates and the rows that won",
        "Rows with the same question",
        "Versions beside their originals",
        "Lengths before and after",
        "Time, tokens and cost",
    ):
        assert heading in text
    assert (run.storage.local_path("report.html")).stat().st_size < 500_000


def test_is_the_same_when_written_again(run: MadeQaRun) -> None:
    page(run)
    first = run.storage.read_bytes("report.html")
    page(run)
    assert run.storage.read_bytes("report.html") == first


def test_hostile_and_endless_texts_stay_short_texts(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        if stage == "source":
            row["question"] = HOSTILE + row["question"]

    run = made_qa_run(str(tmp_path), 70, change=change)
    found = page(run)
    assert "script" not in {tag for tag, _ in found.tags}
    assert "<script>alert(1)</script></title></svg>" in found.text and "\x1b" not in found.text
    assert run.storage.local_path("report.html").stat().st_size < 1_000_000


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
    run = made_qa_run(str(tmp_path), 40, without=(column,))
    found = page(run)
    ids = {attributes.get("id") for tag, attributes in found.tags if tag == "section"}
    assert ids >= {"account", "map", "duplicates", "versions", "lengths"} - {section}
    assert section not in ids


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
    # A source of somebody's own may well have a column `version` or `similarity`.
    def change(stage: str, row: Row) -> None:
        if column in row or stage == "augment-formal":
            row[column] = value

    types = {column: pa.array([value]).type}
    run = made_qa_run(str(tmp_path), 40, until="augment-formal", types=types, change=change)
    assert page(run).tags


def test_a_run_without_rows_has_no_sections(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 0)
    found = page(run)
    ids = {attributes.get("id") for tag, attributes in found.tags if tag == "section"}
    assert not ids & {"map", "duplicates", "versions", "lengths"}


def test_a_run_that_was_interrupted_shows_what_there_is(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 100, until="augment-casual").save("interrupted", "stopped")
    reader = RunReader(run.storage.root)
    found = versions(reader)
    assert found is not None and [style.version for style in found.styles] == ["formal", "casual"]
    assert all(style.accepted == style.made for style in found.styles)
    assert "stopped" in page_text(run)


def test_a_part_that_is_gone_does_not_stop_the_report(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 100, unit_rows=20)
    for name in ("09-accept-paraphrases", "06-augment-formal", "05-deduplicate"):
        run.storage.delete(f"stages/{name}/rows/part-{run.units[1].unit_id}.parquet")
    page(run.save("failed", "disk full"))


@pytest.mark.slow
def test_many_rows_make_no_larger_report(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 12_000, unit_rows=512)
    found = gather(run.storage)
    assert found.map is not None and found.map.points <= 1_800
    assert found.versions is not None and found.versions.units <= len(run.units)
    assert found.duplicates is not None and len(found.duplicates.largest) <= 6
    page(run)
    assert run.storage.local_path("report.html").stat().st_size < 3_000_000


def test_sections_of_a_run_without_their_columns_are_none(tmp_path: Path) -> None:
    reader = RunReader(made_qa_run(str(tmp_path), 20, until="clean-text").storage.root)
    assert embedding_map(reader) is None
    assert duplicates(reader) is None
    assert shared(reader, "same_question_group") is None
    assert versions(reader) is None
    assert lengths(reader) is not None


def test_token_ids_are_not_for_reading() -> None:
    lists = {
        "ids": pa.array([[1, 2]], pa.list_(pa.int32())),
        "mask": pa.array([[True]], pa.list_(pa.bool_())),
        "tails": pa.array([[0.5]], pa.large_list(pa.float32())),
        "choices": pa.array([["a", "b"]]),
        "length": [2],
    }
    assert without_vectors(pa.table(lists)).column_names == ["choices", "length"]


def test_the_cache_of_a_teacher_is_not_for_reading() -> None:
    written = {name: pa.nulls(1, kind) for name, kind in TeacherLogProbs.writes.items()}
    assert without_vectors(pa.table({"text": ["a"], **written})).column_names == ["text"]
    own = pa.table({"text": ["a"], "teacher": ["Mrs Smith"]})
    assert without_vectors(own).column_names == ["text", "teacher"]
