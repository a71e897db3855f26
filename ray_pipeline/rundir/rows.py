"""The rows of a stage, read from the run directory one unit at a time."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import DROPPED, FAILED, KEPT, reason_code
from ray_pipeline.rundir.parts import PartInfo
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.units import Unit

if TYPE_CHECKING:
    import datasets
    import pandas

STATUSES = (KEPT, DROPPED, FAILED)
#: Columns that decide whether a row is selected.
_SELECTS = ("stage", "status", "reason")


class Rows:
    """Rows that a stage kept, dropped or failed, in the order of the source.

    Iterating yields `pyarrow.RecordBatch` objects, one unit's rows at most in each, and holds no
    more than one unit in memory. The ``to_`` methods read everything that was selected.

    A stage that committed together with later ones has no kept rows of its own: see `note`.

    Args:
        reader: the run.
        stage: its name in the ledger.
        status: only rows with this status; None: all of them.
        reason: only rows whose reason starts with this text.
        columns: the columns to read, in this order; None: all of them.
        limit: stop after this many rows; None: no limit.
        source: only rows of this named source; None: those of all sources.

    Attributes:
        schema: the columns of every batch; empty where no unit of the stage is committed.

    Raises:
        UserError: no such stage, status, column or source.
    """

    def __init__(
        self,
        reader: RunReader,
        stage: str,
        status: str | None = None,
        reason: str | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        source: str | None = None,
    ) -> None:
        reader.entry(stage)
        if status is not None and status not in STATUSES:
            raise UserError(f"status {status!r}: no row has it{nearest(status, STATUSES)}")
        self._reader = reader
        self._from = reader.units if source is None else _units_of(reader, source)
        self._stage, self._status, self._reason = stage, status, reason
        self._limit = limit
        self._segment = reader.segment_of(stage)
        self.schema = self._schema(columns)

    def _schema(self, columns: Sequence[str] | None) -> pa.Schema:
        if self._segment is None:
            return pa.schema([])
        schema = self._reader.schema(self._segment).remove_metadata()
        for name in columns or ():
            if name not in schema.names:
                hint = nearest(name, schema.names)
                raise UserError(f"rows of {self._stage}: no column {name!r}{hint}")
        return pa.schema([schema.field(name) for name in columns]) if columns else schema

    @property
    def note(self) -> str | None:
        """A sentence on where the kept rows come from, if not from the stage itself; else None."""
        if self._status not in (None, KEPT) or self._reason is not None:
            return None
        stage, segment = self._stage, self._segment
        if segment is None and self._reader.made_by(stage) is not None:
            return f"{stage} makes files: the rows it kept are those of the stage before it"
        if segment is None or segment.stages[-1] == stage:
            return None
        others = ", ".join(name for name in segment.stages if name != stage)
        return (
            f"{stage} ran and committed together with {others}: its kept rows are shown as they "
            f"left {segment.stages[-1]}. save_every_stage: true keeps every stage's own"
        )

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one unit after another.

        Raises:
            RunError: a part cannot be read.
        """
        left = self._limit
        for rows in self._units():
            rows = rows if left is None else rows.slice(0, left)
            yield from rows.combine_chunks().to_batches()
            if left is not None:
                left -= rows.num_rows
                if left <= 0:
                    return

    def _units(self) -> Iterator[pa.Table]:
        """The selected rows of each unit that has any."""
        segment = self._segment
        if segment is None or self._limit == 0:
            return
        read = list(dict.fromkeys([*self.schema.names, *_SELECTS]))
        for unit, info in self._reader.part_infos(segment, self._from):
            if self._may_be_in(info):
                rows = self._reader.rows_of(segment, unit, read)
                rows = rows.filter(self._mask(rows)).select(self.schema.names)
                if rows.num_rows:
                    yield rows.cast(self.schema)

    def _may_be_in(self, info: PartInfo) -> bool:
        """Whether a part can hold selected rows, by its account: saves reading most parts."""
        account = next((a for a in info.accounts if a.name == self._stage), None)
        if account is None:
            return False
        if self._reason is not None:
            # The account counts by code; `reason` may be shorter, or include part of the detail.
            code = reason_code(self._reason)
            return any(counted.startswith(code) for counted in account.reasons)
        counts = {KEPT: account.kept, DROPPED: account.dropped, FAILED: account.failed}
        return bool(counts[self._status] if self._status else sum(counts.values()))

    def _mask(self, rows: pa.Table) -> Any:
        mask = pc.fill_null(pc.equal(rows["stage"], self._stage), False)
        if self._status in (None, KEPT):
            mask = pc.or_(mask, pc.equal(rows["status"], KEPT))
        if self._status is not None:
            mask = pc.and_(mask, pc.equal(rows["status"], self._status))
        if self._reason is not None:
            starts = pc.fill_null(pc.starts_with(rows["reason"], self._reason), False)
            mask = pc.and_(mask, starts)
        return mask

    def to_arrow(self) -> pa.Table:
        """All selected rows in memory, as an Arrow table."""
        return pa.Table.from_batches(self, self.schema)

    def to_pandas(self) -> pandas.DataFrame:
        """All selected rows in memory, as a pandas data frame."""
        return self.to_arrow().to_pandas()

    def to_dataset(self) -> datasets.Dataset:
        """All selected rows as a Hugging Face data set, memory-mapped from a temporary file.

        The file is deleted when the process exits; `Dataset.save_to_disk` makes a lasting copy.
        """
        from datasets import Dataset

        folder = tempfile.mkdtemp(prefix="ray-pipeline-dataset-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = str(Path(folder, "rows.arrow"))
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, self.schema) as writer:
            for batch in self:
                writer.write_batch(batch)
        return Dataset.from_file(path)


def _units_of(reader: RunReader, source: str) -> list[Unit]:
    """The units of a named source."""
    names = {unit.source for unit in reader.units if unit.source}
    if source not in names:
        raise UserError(
            f"source {source!r}: the run has no such source{nearest(source, list(names))}"
        )
    return [unit for unit in reader.units if unit.source == source]
