"""Formulas in tables that become CSV files."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.core.spreadsheets import without_formulas

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "--5"]
TEXTS = ["", "a=b", " =1", "-5", "+1.5e3", "-.5", "'=1", "é", "5-3"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe_in_a_cell_and_in_the_header(text: str) -> None:
    table = pa.table({text: pa.array([text, None, "x"])})
    safe = without_formulas(table)
    assert safe.column_names == [f"'{text}"]
    assert safe.column(0).to_pylist() == [f"'{text}", None, "x"]


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_and_numbers_stay(text: str) -> None:
    table = pa.table({"a": pa.array([text], pa.large_string()), "n": [-5]})
    assert without_formulas(table) == table


@given(st.lists(st.text(st.sampled_from("=+-@'\t\r\n＝\",;a1. "), max_size=6), max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_cell_of_the_file_begins_like_a_formula(texts: list[str]) -> None:
    sink = io.BytesIO()
    pacsv.write_csv(without_formulas(pa.table({"=a": pa.array(texts, pa.string())})), sink)
    rows = list(csv.reader(io.StringIO(sink.getvalue().decode(), newline="")))
    cells = [row[0] for row in rows if row]
    assert cells[0] == "'=a" and len(rows) == len(texts) + 1
    for cell in cells[1:]:
        if cell[:1] in tuple("=+-@\t\r\n＝"):
            float(cell)
