"""Names that become files are refused where some system has no such file."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES

from ray_pipeline.core.file_names import check_name, name_fault, same_file
from ray_pipeline.core.storage import Storage


@pytest.mark.parametrize(
    "name",
    ["../../x", "/abs/x", "a/b", "a\\b", "..", ".", "", " ", "x\n", "a\0b", "\x1b[2Jx", "a\u202eb"]
    + ["con", "NUL.csv", "lpt1", "x.", " x", "n" * 300, "é" * 101, "C:x", "\ud800", "a\u2028b"],
)
def test_a_name_that_is_not_a_file_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file: ") as error:
        check_name(name)
    assert len(str(error.value).splitlines()) == 1 and str(error.value).isprintable()
    assert len(str(error.value)) < 220


@pytest.mark.parametrize(
    "name", ["dataset", "qa 2026-11", "données.v2", "数据", "console", "a" * 200]
)
def test_a_plain_name_is_a_file(name: str) -> None:
    assert check_name(name) == name


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(max_size=230))
def test_a_name_that_is_accepted_is_written_into_its_own_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    if name_fault(name) is not None:
        return
    folder = tmp_path_factory.mktemp("run")
    Storage(str(folder)).write_bytes(f"exports/{name}.parquet", b"x")
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert [path.parent for path in written] == [folder / "exports"]
    assert written[0] == Path(folder, "exports", f"{name}.parquet")


def test_names_that_differ_in_case_or_composition_are_one_file() -> None:
    assert same_file(["a", "b"]) is None
    assert same_file(["Data.csv", "x", "data.CSV"]) == ("Data.csv", "data.CSV")
    composed = "\u00e9"
    assert same_file([composed, unicodedata.normalize("NFD", composed)]) is not None
    assert same_file(["straße", "STRASSE"]) is not None
