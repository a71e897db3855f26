"""Whatever a source lets in, every format can write; what one cannot is refused at the start."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.arrow_columns import held
from support.command import InProcess
from support.soak import EXAMPLES
from support.toy_run import make_toy

from ray_pipeline.core.arrow_types import as_plain, json_values
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.exports import (
    Exports,
    check_export_names,
    check_formats,
    export_dataset,
)
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.read import read_unit
from ray_pipeline.sources.survey import survey
from ray_pipeline.stages.subsets.write import WriteSubsets
from ray_pipeline.stages.training.evaluate import Evaluate
from ray_pipeline.stages.training.split import Split

CASES = Path(__file__).parents[1] / "cases"
SEGMENT: Any = SimpleNamespace(folder="stages/01-all")


def exported(folder: str, tables: list[pa.Table], *formats: str) -> tuple[Exports, Storage]:
    storage, exports = Storage(folder), Exports()
    for number, table in enumerate(tables):
        path = part_path(SEGMENT.folder, f"unit{number}")
        write_part(storage, path, table, fingerprint="f", input_digest="i", accounts=[])
    units = [f"unit{number}" for number in range(len(tables))]
    export_dataset(storage, SEGMENT, units, "rows", formats, exports)
    return exports, storage


def rows_of(*named: tuple[str, Any]) -> pa.Table:
    data = pa.table([column for _, column in named], names=[name for name, _ in named])
    return with_envelope(data, [f"row{i}" for i in range(data.num_rows)])


def test_formulas_are_text_in_csv_files_alone_and_only_on_request(tmp_path: Path) -> None:
    table = rows_of(("=id", pa.array(["=1", "a"])), ("n", pa.array([-1, 2])))
    for is_safe, mark in ((False, ""), (True, "'")):
        storage, exports = Storage(str(tmp_path / str(is_safe))), Exports(is_safe)
        path = part_path(SEGMENT.folder, "unit0")
        write_part(storage, path, table, fingerprint="f", input_digest="i", accounts=[])
        export_dataset(storage, SEGMENT, ["unit0"], "rows", ["csv", "jsonl"], exports)
        lines = (storage.read_bytes("exports/rows.csv") or b"").decode().splitlines()
        assert lines[0].startswith(f'"{mark}=id","n"')
        assert [line.split(",")[:2] for line in lines[1:]] == [[f'"{mark}=1"', "-1"], ['"a"', "2"]]
        assert b'"=id":"=1"' in (storage.read_bytes("exports/rows.jsonl") or b"")


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_column_of_any_type_goes_to_every_format(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    column = as_plain(data.draw(held(rows=3)))
    table = rows_of(("text", pa.array(["a", None, 'b"\n'])), ("any", column))
    folder = str(tmp_path_factory.mktemp("run"))
    parts = [table.slice(0, 2), table.slice(2)]
    exports, storage = exported(folder, parts, "csv", "jsonl", "parquet")
    assert exports.failed == {} and exports.failure is None

    lost: Counter[str] = Counter()
    values = json_values(column, lost)
    lines = (storage.read_bytes("exports/rows.jsonl") or b"").decode().split("\n")[:-1]
    # Through JSON, because floats of 16 and 32 bits are written with as few digits as they need.
    assert [json.loads(line)["any"] for line in lines] == json.loads(json.dumps(values))
    assert ("exports/rows.jsonl" in exports.notes) == bool(lost)

    written = (storage.read_bytes("exports/rows.csv") or b"").decode()
    cells = list(csv.DictReader(io.StringIO(written)))
    assert [cell["text"] for cell in cells] == ["a", "", 'b"\n']
    is_null = [not valid for valid in column.is_valid().to_pylist()]
    assert all(not cell["any"] for cell, null in zip(cells, is_null, strict=True) if null)
    nested = pa.types.is_nested(column.type)
    assert not nested or [json.loads(c["any"] or "null") for c in cells] == values

    again = pq.read_table(io.BytesIO(storage.read_bytes("exports/rows.parquet") or b""))
    assert again.schema.equals(table.schema)
    found: Counter[str] = Counter()
    assert json_values(again["any"], found) == values and found == lost


def test_numbers_that_json_has_not_are_told_by_column(tmp_path: Path) -> None:
    nan, infinity = float("nan"), float("inf")
    table = rows_of(
        ("score", pa.array([nan, infinity, 1.0])), ("more", pa.array([[nan], [1.0], []]))
    )
    exports, storage = exported(str(tmp_path), [table], "csv", "jsonl")
    note = "JSON has no NaN and no infinity, so they are null: "
    assert exports.notes == {
        "exports/rows.jsonl": f"{note}2 in 'score', 1 in 'more'",
        "exports/rows.csv": f"{note}1 in 'more'",  # whose lists are JSON
    }
    cells = csv.DictReader(io.StringIO((storage.read_bytes("exports/rows.csv") or b"").decode()))
    assert [cell["score"] for cell in cells] == ["nan", "inf", "1"]


def test_json_values_come_out_as_the_source_has_them(tmp_path: Path) -> None:
    values = ["1", '"x2"', "123456789012345678901234567890", "1.50", "null", '{"a":[1e5]}', '"1"']
    values += ["true", "NaN"]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(f'{{"id": {value}}}\n' for value in values))
    found = survey(SourceConfig(path=str(source)), {}, None, str(tmp_path))
    tables = [read_unit(unit, found.spec) for unit in found.units]
    exports, storage = exported(str(tmp_path), tables, "csv", "jsonl", "parquet")
    lines = (storage.read_bytes("exports/rows.jsonl") or b"").decode().splitlines()
    assert [line.partition(',"row_id"')[0] for line in lines] == [
        f'{{"id":{value}' for value in [*values[:-1], "null"]
    ]
    assert "id" in exports.notes["exports/rows.jsonl"]
    text = ["1", "x2", values[2], "1.50", None, '{"a":[1e5]}', "1", "true", "NaN"]
    table = pq.read_table(io.BytesIO(storage.read_bytes("exports/rows.parquet") or b""))
    assert table["id"].to_pylist() == text and table.schema.field("id").metadata is None
    cells = csv.DictReader(io.StringIO((storage.read_bytes("exports/rows.csv") or b"").decode()))
    assert [cell["id"] or None for cell in cells] == text


def test_a_year_that_is_far_off_needs_no_other_columns(tmp_path: Path) -> None:
    days = pa.array([0, 10**8, None], pa.int32()).view(pa.date32())
    table = rows_of(("day", days))
    exports, storage = exported(str(tmp_path), [table.slice(0, 1), table.slice(1)], "csv")
    assert exports.failed == {}
    cells = csv.DictReader(io.StringIO((storage.read_bytes("exports/rows.csv") or b"").decode()))
    assert [cell["day"] for cell in cells] == ["1970-01-01", "275760-09-13", ""]


def test_one_format_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray_pipeline.engine import exports as module

    def broken(column: Any, lost: Any) -> Any:
        raise TypeError("no words for it")

    storage = Storage(str(tmp_path))
    storage.write_bytes("exports/rows.jsonl", b"of an earlier run")
    monkeypatch.setattr(module, "json_values", broken)
    exports, _ = exported(str(tmp_path), [rows_of(("n", pa.array([1])))], "jsonl", "csv")
    assert list(exports.failed) == ["exports/rows.jsonl"]
    assert "exports/rows.jsonl: column 'n' of type int64: no words for it" in str(exports.failure)
    assert not storage.exists("exports/rows.jsonl") and storage.exists("exports/rows.csv")


def test_a_data_set_of_the_hub_takes_images_decimals_and_times(tmp_path: Path) -> None:
    import datasets

    image = pq.read_table(CASES / "image.parquet")
    moments = pa.array([0, 1, None], pa.int64()).view(pa.timestamp("us", "UTC"))
    data = image.append_column("moment", moments)
    check_formats(data.schema, ["hf"], [], is_local=True)
    table = with_envelope(data, ["a", "b", "c"])
    exports, storage = exported(str(tmp_path), [table], "hf")
    assert exports.failed == {}
    loaded = datasets.load_from_disk(str(storage.local_path("exports/rows")))
    assert loaded[0]["image"] == {"bytes": b"\x89PNG\xff", "path": "0.png"}
    assert np.isnan(loaded[1]["score"])


def test_what_a_format_has_no_place_for_is_refused_by_name() -> None:
    schema = pa.schema([("good", pa.string()), ("odd", pa.map_(pa.string(), pa.int8()))])
    check_formats(schema, ["csv", "jsonl", "parquet"], [Split()], is_local=False)
    odd = "column 'odd' is of type map<string, int8>, which a Hugging Face data set"
    with pytest.raises(UserError, match=f"export.formats: hf: {odd}"):
        check_formats(schema, ["hf"], [], is_local=True)
    with pytest.raises(UserError, match=f"stages.write-subsets: {odd}"):
        check_formats(schema, ["csv"], [WriteSubsets()], is_local=False)
    with pytest.raises(UserError, match="hf needs a local run_dir"):
        check_formats(schema, ["hf"], [], is_local=False)


@pytest.fixture
def with_images(tmp_path: Path) -> Any:
    """A toy job on the case file, whose stages read the text alone."""
    toy = make_toy(tmp_path, ["-"], pipeline="toy_shout")
    toy.change(
        source={"path": str(CASES / "image.parquet"), "columns": {"text": "Question"}},
        export={"formats": ["csv", "jsonl", "parquet"]},
    )
    return toy


def test_the_case_of_a_data_set_of_images_is_carried_to_every_export(
    command: Any, with_images: Any
) -> None:
    done = command("run", with_images.config_file)
    assert done.code == 0, done.text
    exports = with_images.run_dir / "exports"
    source = pq.read_table(CASES / "image.parquet")
    table = pq.read_table(exports / "dataset.parquet")
    for name in ("image", "prices"):
        assert table[name].equals(source[name])
    rows = [json.loads(line) for line in (exports / "dataset.jsonl").read_text().splitlines()]
    assert rows[0]["image"] == {"bytes": "iVBOR/8=", "path": "0.png"}
    assert [row["prices"] for row in rows] == [["1.50"]] * 3
    assert [row["score"] for row in rows] == [1.5, None, None]
    (cell, *_) = csv.DictReader((exports / "dataset.csv").open(newline=""))
    assert json.loads(cell["image"]) == rows[0]["image"]
    note = "exports/dataset.jsonl: JSON has no NaN and no infinity, so they are null: 2 in 'score'"
    assert with_images.ledger()["export_notes"] == [note]
    told = " ".join(command("status", with_images.run_dir).out.split())
    assert note in told
    assert "no NaN and no infinity" in (with_images.run_dir / "report.html").read_text()
    shown = command("rows", with_images.run_dir, "shout", "--json")
    assert json.loads(shown.out.splitlines()[0])["image"]["bytes"] == "iVBOR/8="


def test_a_column_that_no_run_can_keep_is_refused_before_any_work(
    command: Any, with_images: Any, tmp_path: Path
) -> None:
    file = tmp_path / "odd.parquet"
    odd = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(pa.table({"Question": ["a"], "odd": odd}), file)
    with_images.change(source={"path": str(file)})
    for done in command.both(with_images.config_file):
        assert done.code == 2, done.text
        assert "column 'odd' is of type struct<a: int64, a: int64>, which a run" in done.err
        assert "it has two fields named 'a'" in done.err and "Traceback" not in done.text
    assert not (with_images.run_dir / "stages").exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../x", "a path; use another character"),
        ("/tmp/x", "a path; use another character"),
        ("n" * 300, "it has 300 bytes"),
        ("aux", "a device on Windows"),
        ("a\x1b[31m", "the invisible character U+001B"),
        ("", "it is empty"),
    ],
)
def test_a_name_that_is_not_a_file_is_refused_before_anything_runs(
    tmp_path: Path, name: str, why: str
) -> None:
    toy = make_toy(tmp_path, ["a"], export={"name": name})
    for done in InProcess(tmp_path).both(toy.config_file):
        assert done.code == 2, done.text
        assert done.err.count("\n") == 1 and "export.name" in done.err and why in done.err
    assert not toy.run_dir.exists() or not (toy.run_dir / "stages").exists()


class Other(Split):
    """A stage with a file of its own."""

    name, export = "other", "Words.csv"


@pytest.mark.parametrize("name", ["Words", "wORDS"])
def test_rows_are_not_written_over_the_file_of_a_stage(name: str) -> None:
    with pytest.raises(UserError, match=r"over 'Words.csv' of stages.other: take another name"):
        check_export_names(name, ["jsonl", "csv"], [Other()])
    check_export_names(name, ["jsonl", "parquet", "hf"], [Other()])


def test_rows_are_not_written_over_the_files_of_an_evaluation() -> None:
    with pytest.raises(UserError, match="over 'validation_results"):
        check_export_names("Validation_Results", ["csv"], [Evaluate()])
