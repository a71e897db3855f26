"""Validation: the texts of every row are there, are text, and have a reasonable length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import varied
from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.stage import MapStage, StageConfig

#: The replacement character and control characters: what is left of bytes that were not text.
#: Tab and line ends are text; U+0080 to U+009F are often mojibake, which clean-text repairs.
_UNDECODABLE = "[\ufffd\x01-\x08\x0b\x0c\x0e-\x1f\x7f\\x00]"


class Validate(MapStage):
    """Drops rows whose texts are null, empty, overlong or not decodable.

    Reasons: ``invalid:null``, ``invalid:empty``, ``invalid:too_long``, ``invalid:undecodable``.

    Args:
        columns: the texts of a row.
        defaults: of the configuration.
    """

    name = "validate"
    export = "invalid_rows.csv"

    class Config(StageConfig):
        columns: tuple[str, ...] = Field(
            (), description="text columns that must exist and must not be empty"
        )
        max_undecodable_share: float = Field(
            0.05,
            ge=0,
            le=1,
            description="maximum share of control and replacement characters (U+FFFD) in a text; "
            "rows above it are dropped",
        )

    config: Config

    def __init__(self, *columns: str, **defaults: Any) -> None:
        super().__init__(columns=columns, **defaults)
        self.columns = columns

    @property
    def config_type(self) -> type[StageConfig]:
        """With a key ``max_COLUMN_chars`` for each column; of others, any length is right."""
        longest = {
            f"max_{name}_chars": (
                int,
                Field(20_000, ge=1, description=f"longest {name}, in characters"),
            )
            for name in self.columns
        }
        return varied(self.Config, self._defaults, longest)

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns that the job names; the configuration may name further ones."""
        return dict.fromkeys(self.columns, pa.string())

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Drop the rows that are not valid, with the first reason that applies."""
        for column in self.config.columns:
            rows = _with_decodable(rows, column)
            text = rows[column]
            rows = drop(rows, pc.is_null(text), f"invalid:null: {column}")
            empty = pc.equal(pc.utf8_trim_whitespace(text), pa.scalar(""))
            rows = drop(rows, empty, f"invalid:empty: {column}")
            if (longest := getattr(self.config, f"max_{column}_chars", None)) is not None:
                rows = _drop_too_long(rows, column, longest)
            rows = self._drop_undecodable(rows, column)
        return rows

    def _drop_undecodable(self, rows: pa.Table, column: str) -> pa.Table:
        text = rows[column]
        found = pc.count_substring_regex(text, _UNDECODABLE)
        allowed = pc.multiply(
            pc.cast(pc.utf8_length(text), pa.float64()), self.config.max_undecodable_share
        )
        reason = pc.binary_join_element_wise(
            f"invalid:undecodable: {column} has ",
            pc.cast(found, pa.string()),
            " control or replacement characters",
            "",
            null_handling="replace",
        )
        return drop(rows, pc.greater(pc.cast(found, pa.float64()), allowed), reason)


def _drop_too_long(rows: pa.Table, column: str, limit: int) -> pa.Table:
    length = pc.utf8_length(rows[column])
    reason = pc.binary_join_element_wise(
        f"invalid:too_long: {column} has ",
        pc.cast(length, pa.string()),
        f" characters, at most {limit}",
        "",
        null_handling="replace",
    )
    return drop(rows, pc.greater(length, pa.scalar(limit)), reason)


def _with_decodable(rows: pa.Table, column: str) -> pa.Table:
    """Replace bytes that are not UTF-8 (an Arrow reader need not check) by U+FFFD.

    The row is then judged like any other, and can be written to a file whatever the verdict.
    """
    text = rows[column]
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        raw = pc.cast(text, pa.binary()).to_pylist()
        decoded = [None if cell is None else cell.decode("utf-8", "replace") for cell in raw]
        return set_column(rows, column, pa.array(decoded, pa.string()))
    return rows
