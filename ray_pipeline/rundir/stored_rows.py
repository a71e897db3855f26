"""The kept rows of a whole run, in parts on storage: the input of an `ArtifactStage`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import kept
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import ORIGINAL, VERSION
from ray_pipeline.rundir.parts import existing_part, read_rows


@dataclass(frozen=True)
class StoredRows:
    """The kept rows of all units, in the source's order. Holds only paths, so it pickles cheaply.

    Attributes:
        storage: the run directory.
        paths: parts, relative to it.
        digest: identity of all kept rows.
    """

    storage: Storage
    paths: tuple[str, ...]
    digest: str

    @property
    def columns(self) -> list[str]:
        """Names of all columns.

        Raises:
            RunError: the first part is gone or cannot be read.
        """
        names: list[str] = existing_part(self.storage, self.paths[0]).schema.names
        return names

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns of the kept rows, one part at a time.

        Raises:
            RunError: a part is gone or cannot be read.
        """
        wanted = list(dict.fromkeys([*columns, "status"]))
        for path in self.paths:
            yield kept(read_rows(self.storage, path, wanted)).select(list(columns))

    def mapped(
        self, columns: Sequence[str], containing: Mapping[str, str] | None = None, /, **equal: str
    ) -> pa.Table:
        """The named columns of the kept rows, memory-mapped from a temporary file.

        Args:
            columns: names of the columns to read.
            containing: only rows whose list in the named column contains the value.
            equal: only rows whose columns have these values, as ``split="train"``.

        Raises:
            RunError: a part cannot be read, or the disk for temporary files is full.
        """
        handle, path = tempfile.mkstemp(prefix="ray-pipeline-rows-")
        os.close(handle)
        try:
            self._write(path, list(columns), containing or {}, equal)
            return pa.ipc.open_file(pa.memory_map(path)).read_all()
        except OSError as error:
            raise RunError(f"rows cannot be written to {path}: {error}") from error
        finally:
            os.unlink(path)  # the mapping keeps the data until the table is garbage-collected

    def originals(self, columns: Sequence[str], /, **equal: str) -> pa.Table:
        """As `mapped`, without the rows that are paraphrases of others (``version``).

        Held-out rows are measured so: the questions of a source are independent of each other, and
        a model's paraphrases of one are not. All rows where none is an original, or where the run
        has no versions.

        Raises:
            RunError: as `mapped`.
        """
        if VERSION not in self.columns:
            return self.mapped(columns, **equal)
        rows = self.mapped(list(dict.fromkeys([*columns, VERSION])), **equal)
        found = rows.filter(is_original(rows))
        return (found if found.num_rows else rows).select(list(columns))

    def _write(
        self, path: str, columns: list[str], containing: Mapping[str, str], equal: dict[str, str]
    ) -> None:
        writer = None
        with pa.OSFile(path, "wb") as file:
            for table in self.tables(list(dict.fromkeys([*columns, *containing, *equal]))):
                for name, value in equal.items():
                    table = table.filter(pc.equal(table[name], value))
                for name, value in containing.items():
                    table = rows_containing(table, name, value)
                table = table.select(columns)
                writer = writer or pa.ipc.new_file(file, table.schema)
                writer.write_table(table)
            if writer is None:
                raise RunError("the run has no parts")
            writer.close()


def is_original(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows are no paraphrase of another one, by their ``version``; booleans [rows]."""
    return pc.equal(pc.fill_null(rows[VERSION], ORIGINAL), ORIGINAL)


def rows_containing(table: pa.Table, column: str, value: str) -> pa.Table:
    """The rows whose list in a column contains a value, in their order."""
    lists = table[column].combine_chunks()
    matches = pc.equal(pc.list_flatten(lists), pa.scalar(value, lists.type.value_type))
    rows = pc.list_parent_indices(lists).filter(matches)
    return table.take(pc.unique(rows))
