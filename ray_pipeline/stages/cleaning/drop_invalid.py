"""Rows that a person marked as invalid during review."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import data_columns, drop
from ray_pipeline.stage import MapStage, StageConfig


class DropInvalid(MapStage):
    """Drops rows that a reviewer marked as invalid. Reason: ``review:COLUMN=VALUE``."""

    name = "drop-invalid"
    export = "dropped_in_review.csv"

    class Config(StageConfig):
        marks: dict[str, tuple[str, ...]] = Field(
            {"Classification": ("no",), "Correction_Question": ("invalid",)},
            description="review column → the values that mark a row as invalid; case and "
            "surrounding white space are ignored",
        )
        require: bool = Field(
            False, description="raise an error if a review column is missing; false: ignore it"
        )

        @field_validator("marks", mode="before")
        @classmethod
        def _unread_yaml_booleans(cls, marks: Any) -> Any:
            # YAML reads an unquoted `no` as false: `Classification: [no]` means the word.
            if not isinstance(marks, dict):
                return marks
            words = {True: "yes", False: "no"}
            return {
                column: [words[v] if isinstance(v, bool) else v for v in values]
                if isinstance(values, list | tuple)
                else values
                for column, values in marks.items()
            }

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Drop the rows whose review columns hold one of the configured values.

        Raises:
            UserError: a review column is missing, and the configuration requires it.
        """
        columns = data_columns(rows)
        for column, values in self.config.marks.items():
            if column not in columns:
                if self.config.require:
                    where = f"stages.{self.name}.marks: the rows have no column {column!r}"
                    raise UserError(where + nearest(column, columns))
                continue
            found = pc.utf8_lower(pc.utf8_trim_whitespace(pc.cast(rows[column], pa.string())))
            for value in values:
                marked = pc.equal(found, value.strip().lower())
                rows = drop(rows, marked, f"review:{column}={value}")
        return rows
