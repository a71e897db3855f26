"""What the sections read of a run: some columns, of some units, one part at a time.

A report must not cost more the larger the run is. Each section looks at a bounded number of units,
the same ones whenever the report is written: those whose ids, which are hashes, come first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ray_pipeline.core.columns import is_list, is_text
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.rundir.layout import CACHE
from ray_pipeline.rundir.reader import RunReader, SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

_T = TypeVar("_T")

#: Units whose narrow columns a section reads at most: as many small reads take some ten seconds.
MOST_UNITS = 2_000
#: Columns that some stage writes as evidence for what it did, by what they must hold.
_NUMBERS = {"outlier_cluster", "outlier_score", "duplicate_similarity", "similarity"}
_TEXTS = {"outlier_rule", "outlier_verdict", "duplicate_of", "version"}
#: Bytes of a CSV file that are parsed at a time: a row must fit, and answers may be long.
_BLOCK = 16 * 2**20


class ReportReader(RunReader):
    """A `RunReader` for one report: what several sections need is worked out once."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._results: dict[Any, Any] = {}

    def once(self, read: Callable[[ReportReader], _T]) -> _T:
        """What `read` returns for this run, worked out when it is first asked for."""
        if read not in self._results:
            self._results[read] = read(self)
        result: _T = self._results[read]
        return result

    def columns(
        self, segment: SegmentFolder, unit: Unit, names: Collection[str]
    ) -> pa.Table | None:
        """As `RunReader.columns`, with nulls for evidence of a type that no stage writes.

        See `valid_evidence`.
        """
        rows = super().columns(segment, unit, names)
        return None if rows is None else valid_evidence(rows)

    def csv(self, path: str, most: int | None = None) -> pa.Table | None:
        """Rows of a CSV file of the run directory, all cells as text; None when there is no file.

        Args:
            path: relative to the run directory.
            most: stop soon after as many rows.

        Raises:
            RunError: it cannot be read.
        """
        try:
            with self.storage.open(path) as file:
                names = _csv(file).schema.names
                file.seek(0)
                batches: list[pa.RecordBatch] = []
                rows = 0
                for batch in _csv(file, names):
                    batches.append(batch)
                    rows += batch.num_rows
                    if most is not None and rows > most:
                        break
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowInvalid) as error:
            raise RunError(f"cannot read {self.storage.uri(path)}: {error}") from error
        return pa.Table.from_batches(batches) if batches else None


def _csv(file: pa.NativeFile, text_columns: Collection[str] = ()) -> pacsv.CSVStreamingReader:
    types = dict.fromkeys(text_columns, pa.string())
    return pacsv.open_csv(
        file,
        read_options=pacsv.ReadOptions(block_size=_BLOCK),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types=types),
    )


def some_units(reader: RunReader, most: int = MOST_UNITS) -> list[Unit]:
    """At most `most` units, as good as drawn at random and always the same."""
    return sorted(reader.units, key=lambda unit: unit.unit_id)[:most]


def segments_with(reader: RunReader, *columns: str) -> list[SegmentFolder]:
    """The segments whose rows have all these columns, in order."""
    return [s for s in reader.segments if set(columns) <= set(reader.schema(s).names)]


def texts_of(
    reader: RunReader, segment: SegmentFolder, unit: Unit, row_ids: Collection[str], length: int
) -> dict[str, list[tuple[str, str]]]:
    """The texts of some rows of a unit by row id: columns with values of at most `length`."""
    names = text_columns(reader, reader.schema(segment))
    rows = reader.columns(segment, unit, ["row_id", *names])
    if rows is None:
        return {}
    chosen = rows.filter(pc.is_in(rows["row_id"], pa.array(sorted(row_ids), pa.string())))
    return {
        row["row_id"]: [(name, shortened(plain(row[name]), length)) for name in names]
        for row in chosen.to_pylist()
    }


def valid_evidence(rows: pa.Table) -> pa.Table:
    """The rows with nulls for what cannot be evidence: a source may have columns of these names."""
    for index, field in enumerate(rows.schema):
        if field.name in _NUMBERS:
            rows = rows.set_column(index, field.name, _numbers(rows.column(index)))
        elif field.name in _TEXTS and not is_text(field.type):
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
    """The columns that a person can read: no embeddings, token ids, or cached teacher outputs."""
    cache = set(CACHE) - {"row_id"}
    hidden = {field.name for field in rows.schema if _is_numbers(field.type)}
    # A source may have columns with some of these names: only all of them together are the cache.
    hidden |= cache if cache <= set(rows.column_names) else set()
    return rows.drop_columns(sorted(hidden)) if hidden else rows


def _is_numbers(kind: pa.DataType) -> bool:
    """Whether a column holds lists of numbers or of booleans, one for each token of a text."""
    tests = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return is_list(kind) and any(is_one(kind.value_type) for is_one in tests)
