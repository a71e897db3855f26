"""Formulas in CSV files: a spreadsheet runs a cell that begins like one."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

#: What makes spreadsheets read a cell as a formula, full-width forms included.
_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"
#: Numbers begin with a sign, too, and are none.
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def without_formulas(table: pa.Table) -> pa.Table:
    """The table with an apostrophe before each text, and each column's name, that is a formula.

    Numbers in columns of text stay, as do columns of other types.
    """
    for index, column in enumerate(table.schema):
        if pat.is_string(column.type) or pat.is_large_string(column.type):
            quoted = _quoted(table.column(index))
            table = table.set_column(index, column, quoted)
    return table.rename_columns([_quoted_name(name) for name in table.column_names])


def _quoted(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    formulas = pc.fill_null(pc.match_substring_regex(texts, _FORMULA), False)
    if not pc.any(formulas).as_py():
        return texts
    numbers = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
    apostrophe = pa.scalar("'", texts.type)
    quoted = pc.binary_join_element_wise(apostrophe, texts, pa.scalar("", texts.type))
    return pc.if_else(pc.and_not(formulas, numbers), quoted, texts)


def _quoted_name(name: str) -> str:
    is_formula = re.match(_FORMULA, name) and not re.fullmatch(_NUMBER, name)
    return f"'{name}" if is_formula else name
