"""Columns of any Arrow type come out of a source with their values, or are refused by name."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.arrow_columns import held
from support.soak import EXAMPLES
from support.source_reading import look, read_all

from ray_pipeline.core.arrow_types import as_plain, json_values, plain_type
from ray_pipeline.core.errors import UserError


def saved(folder: Path, table: pa.Table) -> Path:
    """A folder as `datasets` saves it."""
    folder.mkdir(exist_ok=True)
    data = str(folder / "data.arrow")
    with pa.OSFile(data, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_column_of_any_type_is_read_with_its_values(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("source")
    column = data.draw(held(rows=5))
    table = pa.table({"text": ["a", "b", "c", "d", "e"], "any": column})
    path = saved(folder / "saved", table)
    if data.draw(st.booleans()):
        # Parquet has no fixed-size lists of views: such a column comes in the other format only.
        with contextlib.suppress(pa.ArrowNotImplementedError):
            pq.write_table(table, folder / "rows.parquet")
            path = folder / "rows.parquet"
    read = read_all(look(path, folder / "scratch", unit_rows=2))
    if pa.types.is_null(column.type):
        return assert_all_null(read)
    expected = plain_type(column.type)
    is_text = pa.types.is_string(expected) or pa.types.is_large_string(expected)
    assert read["any"].type.equals(pa.string() if is_text else expected)
    found, lost = Counter[str](), Counter[str]()
    assert json_values(read["any"], found) == json_values(as_plain(column), lost)
    assert found == lost


def assert_all_null(read: pa.Table) -> None:
    assert read["any"].null_count == read.num_rows


def test_a_type_that_no_file_of_a_run_can_hold_is_refused_by_name(tmp_path: Path) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    path = saved(tmp_path / "saved", pa.table({"text": ["a"], "odd": union}))
    with pytest.raises(UserError, match=r"column .odd. is of type sparse_union.*cannot keep"):
        look(path, tmp_path / "scratch")


def test_an_extension_type_in_a_list_is_read(tmp_path: Path) -> None:
    """Arrow builds no empty column of it, so none may be needed on the way."""
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * 4, pa.binary(16)))
    column = pa.FixedSizeListArray.from_arrays(uuids, 2)
    path = saved(tmp_path / "saved", pa.table({"text": ["a", "b"], "any": column}))
    read = read_all(look(path, tmp_path / "scratch", unit_rows=1))
    assert read["any"].combine_chunks().equals(column)
