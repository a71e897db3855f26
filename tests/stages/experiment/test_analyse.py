"""From records in a run directory to tables, figures and figures for the ledger."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from support.made_cells import VOCABULARY, record, records
from support.stored_parts import put_part

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.experiment.figures import FIGURES
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.experiment.analyse import (
    ANALYSIS,
    RESULTS,
    SUMMARY,
    AnalyseTradeoff,
    row_scores,
)

CONFIG = AnalyseTradeoff.Config(vocabulary=VOCABULARY, bootstrap=5, dpi=40)
PNG = b"\x89PNG"


class Run:
    """A run directory with records."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder))
        self.told: list[str] = []

    def write(self, made: Sequence[dict[str, Any]]) -> Run:
        for one in made:
            self.storage.write_bytes(f"experiment/cells/{one['cell']}.json", orjson.dumps(one))
        return self

    def analyse(self, config: AnalyseTradeoff.Config = CONFIG) -> dict[str, Any]:
        place = Workplace(self.storage, "stages/12-analyse/work", self.told.append)
        return (
            AnalyseTradeoff()
            .bound(config, Settings())
            .make(StoredRows(self.storage, (), "d"), place)
        )

    def table(self, path: str) -> list[dict[str, str]]:
        with self.storage.local_path(path).open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_all_that_it_promises_is_there(run: Run) -> None:
    made = records(modes=("epochs", "tokens"))
    figures = run.write(made).analyse()
    stage = AnalyseTradeoff().bound(CONFIG)
    assert set(stage.makes) == {RESULTS, SUMMARY, ANALYSIS, *FIGURES}
    assert all(run.storage.exists(path) for path in stage.makes)
    for path in FIGURES:
        assert (run.storage.read_bytes(path) or b"").startswith(PNG)
    assert {row["cell"] for row in run.table(RESULTS)} == {one["cell"] for one in made}
    assert len(run.table(SUMMARY)) == 12
    analysis = orjson.loads(run.storage.read_bytes(ANALYSIS) or b"")
    assert figures["modes"]["epochs"]["threshold_by_rule"] == "medium_1m"
    assert figures["modes"]["epochs"]["loss"]["high_100k"] == pytest.approx(
        analysis["modes"]["epochs"]["subsets"][2]["loss"]
    )
    assert any("quantity matters more" in line for line in run.told)
    assert orjson.loads(orjson.dumps(figures)) == figures


def test_a_summary_line_has_the_figures_of_its_subset(run: Run) -> None:
    run.write(records()).analyse(CONFIG.model_copy(update={"target_perplexity": 20.0}))
    analysis = orjson.loads(run.storage.read_bytes(ANALYSIS) or b"")
    for line, one in zip(run.table(SUMMARY), analysis["modes"]["epochs"]["subsets"], strict=True):
        assert line["subset"] == one["subset"] and line["target_perplexity"] == "20"
        assert float(line["perplexity"]) == pytest.approx(one["perplexity"]["mean"])
        assert float(line["loss_low"]) == pytest.approx(one["loss"]["low"])
        arrival = one["to_target"]
        if arrival["seconds"] is None:
            assert line["seconds_to_target"] == "" and arrival["reached"] < 3
        else:
            assert float(line["seconds_to_target"]) == pytest.approx(arrival["seconds"]["mean"])


@pytest.mark.parametrize(
    "made",
    [
        pytest.param([record()], id="one cell"),
        pytest.param([record(loss=None)], id="only one that diverged"),
        pytest.param([record(curve=[])], id="no evaluation"),
        pytest.param([record(loss=900.0)], id="infinite perplexity"),
        pytest.param(records(seeds=1, controls=False), id="one seed, no controls"),
        pytest.param([record(evaluations=1, rows=0)], id="no rows"),
    ],
)
def test_poor_experiments_have_their_tables_and_figures_too(
    run: Run, made: list[dict[str, Any]]
) -> None:
    run.write(made).analyse()
    assert len(run.table(RESULTS)) == len(made)
    assert all((run.storage.read_bytes(path) or b"").startswith(PNG) for path in FIGURES)


def test_a_second_time_gives_the_same(run: Run) -> None:
    first = run.write(records(modes=("epochs", "tokens"))).analyse()
    kept = {path: run.storage.read_bytes(path) for path in (*FIGURES, RESULTS, SUMMARY, ANALYSIS)}
    assert run.analyse() == first
    assert {path: run.storage.read_bytes(path) for path in kept} == kept


def test_records_of_another_configuration_are_left_aside(run: Run) -> None:
    made = records(seeds=2)
    run.write([*made, record("high_100k", 7, 1.0, rows=5)])
    index = [{"cell": one["cell"], "test_loss": 3.0} for one in made]
    run.storage.write_bytes("experiment/cells.json", orjson.dumps(index))
    assert run.analyse()["cells"] == len(made)
    run.storage.delete(f"experiment/cells/{made[0]['cell']}.json")
    with pytest.raises(RunError, match=rf"record of {made[0]['cell']} is missing"):
        run.analyse()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"cell": 3}', b"null"])
def test_what_is_no_record_is_named(run: Run, raw: bytes) -> None:
    run.write(records()).storage.write_bytes("experiment/cells/odd.json", raw)
    with pytest.raises(RunError, match=r"odd\.json: not the record of a training"):
        run.analyse()


def test_without_records_it_says_so(run: Run) -> None:
    with pytest.raises(RunError, match="no training has left a record"):
        run.analyse()


def test_cells_that_cannot_be_compared_are_refused(run: Run) -> None:
    made = records()
    made[0]["test_tokens"] = 9
    with pytest.raises(RunError, match="different test rows"):
        run.write(made).analyse()


def test_a_configured_resolution_is_part_of_its_identity() -> None:
    def identity(**fields: Any) -> dict[str, Any]:
        return AnalyseTradeoff().bound(AnalyseTradeoff.Config(**fields)).identity()

    assert identity() == identity(dpi=300) != identity(dpi=72)
    assert identity() != identity(better_by=0.2)


def test_means_of_subsets_and_correlations_of_rows_are_those_of_the_parts(tmp_path: Path) -> None:
    """Rows in two parts; a score that is missing, or no number, is left out of its mean."""
    table = pa.table(
        {
            "quality": [0.1, 0.2, 0.3, 0.4, 9.0],
            "ifd": pa.array([1.0, None, float("nan"), 4.0, 9.0]),
            "input_ids": pa.array([[1] * n for n in (1, 2, 4, 3, 99)], pa.list_(pa.int32())),
            "split": ["train"] * 4 + ["test"],
            "subsets": [["few"], ["few", "ordered-by-ifd"], [], ["ordered-by-ifd"], None],
            "status": ["kept"] * 5,
        }
    )
    put_part(tmp_path / "one.parquet", table.slice(0, 2))
    put_part(tmp_path / "two.parquet", table.slice(2))
    rows = StoredRows(Storage(str(tmp_path)), ("one.parquet", "two.parquet"), "d")
    found = row_scores(rows, ["ifd", "-length"])
    assert found.rows == 4 and set(found.means) == {"few", "ordered-by-ifd"}
    assert found.means["few"] == pytest.approx({"quality": 0.15, "ifd": 1.0, "length": 1.5})
    assert found.means["ordered-by-ifd"] == pytest.approx(
        {"quality": 0.3, "ifd": 4.0, "length": 2.5}
    )
    assert found.with_length == {"quality": pytest.approx(0.8), "ifd": None}
