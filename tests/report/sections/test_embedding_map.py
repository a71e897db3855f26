from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.html_page import page
from support.made_qa_run import Row, made_qa_run
from support.made_run import MadeRun

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections import embedding_map
from ray_pipeline.report.sections.embedding_map import EmbeddingMap

HOSTILE = "<script>alert(1)</script></title></svg>\x1b[31m " + "x" * 100_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return made_qa_run(str(tmp_path_factory.mktemp("qa")))


def map_of(run: MadeRun) -> EmbeddingMap:
    section = embedding_map.read(ReportReader(run.storage.root))
    assert section is not None
    return section


def test_shows_every_row_of_a_small_run(run: MadeRun) -> None:
    section = map_of(run)
    assert section.points == run.accounts["embed"].kept == section.of_rows
    assert section.method == "t-SNE" and section.unusable == 0
    assert sum(mark.points for mark in section.marks) == section.points
    drawn = {mark.kind: mark.points for mark in section.marks}
    dropped = run.accounts["find-outliers"].reasons | run.accounts["judge-outliers"].reasons
    assert section.reasons == dict(sorted(dropped.items()))
    assert {f"outlier:{kind[4:]}": drawn[kind] for kind in drawn if kind[:4] == "out-"} == dropped
    assert len([kind for kind in drawn if kind[0] == "c"]) == 5  # one for each topic
    assert section.outliers[0].score == pytest.approx(0.9)


def test_each_kind_of_outlier_has_its_own_mark(run: MadeRun) -> None:
    svg = map_of(run).svg
    for mark in ("out-rule", "out-cluster", "out-judge"):
        assert f'<path class="{mark}"' in svg
    assert svg.rindex("<circle") < svg.index("<path")  # outliers are on top


def test_rows_with_similar_meanings_are_close_together(run: MadeRun) -> None:
    places: dict[str, list[tuple[float, float]]] = {}
    for shape in map_of(run).svg.split("<circle ")[1:]:
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
    section = map_of(run)
    assert section.unusable == 5  # of six, one was dropped before
    assert section.points == run.accounts["embed"].kept - 5
    assert "5 of the chosen rows have no usable embedding" in page(run).words


def test_few_rows_are_mapped_by_pca_and_one_is_not(tmp_path: Path) -> None:
    assert map_of(made_qa_run(str(tmp_path / "few"), 12)).method == "PCA"
    run = made_qa_run(str(tmp_path / "one"), 1)
    assert embedding_map.read(ReportReader(run.storage.root)) is None


def test_equal_embeddings_make_a_map_too(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        if stage == "embed":
            row["embedding"] = [0.5] * 24

    assert map_of(made_qa_run(str(tmp_path), 40, change=change, until="embed")).points == 40


def test_without_embeddings_there_is_no_map(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 20, until="clean-text")
    assert embedding_map.read(ReportReader(run.storage.root)) is None


def test_hostile_and_endless_texts_stay_short_texts(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        if stage == "source":
            row["question"] = HOSTILE + row["question"]

    run = made_qa_run(str(tmp_path), 70, change=change)
    found = page(run)
    assert "script" not in found.names
    assert "<script>alert(1)</script></title></svg>" in found.text and "\x1b" not in found.text
    assert run.storage.local_path("report.html").stat().st_size < 1_000_000
