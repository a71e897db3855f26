"""What the sections read of a run: some columns, of some units, one part at a time.

A report must not cost more the larger the run is. Each section looks at a bounded number of units,
the same ones whenever the report is written: those whose ids, which are hashes, come first.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.columns import is_list, is_text
from ray_pipeline.rundir.layout import CACHE
from ray_pipeline.rundir.reader import RunReader, SegmentFolder
from ray_pipeline.rundir.units import Unit

#: Units whose narrow columns a section reads at most: so many small reads take some ten seconds.
MOST_UNITS = 2_000
#: Evidence that must be numbers, and that must be text.
_NUMBERS = {"outlier_cluster", "outlier_score", "duplicate_similarity", "similarity"}
_WORDS = {"outlier_rule", "outlier_verdict", "duplicate_of", "version"}


def some_units(reader: RunReader, most: int = MOST_UNITS) -> list[Unit]:
    """At most so many units, as good as drawn at random and always the same."""
    return sorted(reader.units, key=lambda unit: unit.unit_id)[:most]


def segments_with(reader: RunReader, *columns: str) -> list[SegmentFolder]:
    """The segments whose rows have all these columns, in order."""
    return [s for s in reader.segments if set(columns) <= set(reader.schema(s).names)]


def told_columns(
    reader: RunReader, segment: SegmentFolder, unit: Unit, names: Collection[str]
) -> pa.Table | None:
    """`RunReader.columns`, with nulls for evidence of another type than the stages write."""
    rows = reader.columns(segment, unit, names)
    return None if rows is None else as_told(rows)


def as_told(rows: pa.Table) -> pa.Table:
    """The rows with nulls for what cannot be evidence: a source may have columns of these names."""
    for index, field in enumerate(rows.schema):
        if field.name in _NUMBERS:
            rows = rows.set_column(index, field.name, _numbers(rows.column(index)))
        elif field.name in _WORDS and not is_text(field.type):
            rows = rows.set_column(index, field.name, pa.nulls(rows.num_rows, pa.string()))
    return rows


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_integer(column.type):
        return column
    if not pa.types.is_floating(column.type):
        return pa.nulls(len(column), pa.float64())
    numbers = column.cast(pa.float64())
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def without_vectors(rows: pa.Table) -> pa.Table:
    """The columns that a person can read: no embeddings, no token ids, no cache of a teacher."""
    cache = set(CACHE) - {"row_id"}
    hidden = {field.name for field in rows.schema if _is_numbers(field.type)}
    # Some of its columns have names that a source's own may have, too.
    hidden |= cache if cache <= set(rows.column_names) else set()
    return rows.drop_columns(sorted(hidden)) if hidden else rows


def _is_numbers(kind: pa.DataType) -> bool:
    """Whether a column holds lists of numbers or of marks: as many as a text has tokens."""
    tests = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return is_list(kind) and any(is_one(kind.value_type) for is_one in tests)
