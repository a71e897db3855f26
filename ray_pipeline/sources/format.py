"""The interface of a file format: files are scanned once, then read unit by unit.

A new format is one subclass of `Format` in a file of its own (of
`ray_pipeline.sources.text.TextFormat` where records are lines of text) and one line in
`ray_pipeline.sources.find.FORMATS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import ENVELOPE_COLUMNS
from ray_pipeline.rundir.units import Marks, Unit
from ray_pipeline.sources.columns import Column, check_required, choose_columns
from ray_pipeline.sources.config import SourceConfig


class Format(ABC):
    """One file format. Instances are pickled and sent to workers."""

    #: The format's name, recorded with every unit.
    name: ClassVar[str]
    #: Whether files may be compressed, with an extension like ``.gz`` after the format's own.
    compressible: ClassVar[bool] = False
    #: Whether every value is text, as in CSV, so that numbers have to be parsed.
    values_are_text: ClassVar[bool] = False

    @abstractmethod
    def scan(self, file: SourceFile, options: ScanOptions, limit: int | None) -> FileFacts:
        """Read a whole file once, to learn its columns and rows and where units can begin.

        Args:
            file: the file; it may be compressed if the format is `compressible`.
            options: the survey's options.
            limit: number of records after which the file is only hashed; None: no limit.

        Raises:
            UserError: the file is not what its name says, is empty, or lacks a column.
            OSError: the file cannot be read.
        """

    @abstractmethod
    def read(self, unit: Unit, file: FileSpec) -> Cells:
        """Read the records of one unit, and of the file little more than their bytes.

        Raises:
            RunError: the file is not the one that was surveyed.
            OSError, pyarrow.ArrowException: the file cannot be read.
        """

    def make_seekable(self, facts: FileFacts, unit_rows: int, scratch: str) -> FileFacts:
        """Make sure that a unit can be read alone, if need be from a copy of the file.

        Args:
            facts: the result of `scan`.
            unit_rows: rows of a unit, now that the size of the whole source is known.
            scratch: folder URI for a copy.

        Returns: ``facts`` of the file to read, which is the original or the copy.
        """
        del unit_rows, scratch
        return facts


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, before it is scanned."""

    #: Absolute path or URI.
    uri: str
    format: Format
    #: ``gzip``, ``bz2``, ``zstd`` or None.
    compression: str | None = None


@dataclass(frozen=True)
class ScanOptions:
    """A survey's options for all files of a source."""

    config: SourceConfig
    #: Pipeline's name -> type of the required columns.
    required: Mapping[str, pa.DataType]
    unit_rows: int | None
    #: Folder URI for copies.
    scratch: str
    #: Python's name of the configured encoding.
    encoding: str
    #: The end of the error message about a required column that is missing, by the column's name.
    hints: Mapping[str, str]
    #: Names of the pipeline's own columns, which no column of a file may have.
    reserved: Collection[str] = ENVELOPE_COLUMNS

    def own_names(self) -> list[str]:
        """The required columns by the names that they should have in the files."""
        return [self.config.columns.get(name, name) for name in self.required]

    def choose(
        self,
        names: Sequence[str],
        columns: Mapping[str, Column],
        format: Format,
        uri: str,
        how_read: str = "",
    ) -> dict[str, str]:
        """Map the pipeline's names of a file's columns to the file's own names.

        Args:
            names: the file's columns, in its order.
            columns: the kinds of values in each column.
            format: of the file.
            uri: the file, for messages.
            how_read: how the names were read, for the end of messages.

        Raises:
            UserError: a required column is missing or cannot have its type, or a name occurs
                twice or is reserved.
        """
        required = {name: self.hints.get(name, "") + how_read for name in self.required}
        chosen = choose_columns(names, self.config.columns, required, uri, how_read, self.reserved)
        # A cell of text may contain a number: its values are checked one by one when they are read.
        # Formats without declared types are checked when all files of the source have been read.
        for name, expected in self.required.items() if not format.values_are_text else ():
            own = chosen[name]
            if columns[own].declared is not None:
                check_required(name, own, columns[own], expected, uri)
        return chosen


@dataclass(frozen=True)
class FileFacts:
    """The result of scanning one file."""

    rows: int
    #: Number of malformed rows among them.
    malformed: int
    #: The columns by the file's names, in the file's order.
    columns: dict[str, Column]
    #: Pipeline's name -> the file's name.
    chosen: dict[str, str]
    #: SHA-256 of the original's bytes.
    content: str
    #: The file to read, which may be a copy of the original, and its size in bytes.
    uri: str
    size: int
    #: What else `Format.read` needs to read the file; can be pickled.
    layout: Any = None
    #: Byte offsets of records; None: units are located by the number of their first row.
    marks: Marks | None = None
    #: What the user should know of the file, in sentences that name it.
    notes: tuple[str, ...] = ()
    #: Why none of its rows can be read, and how to fix it; None if some can.
    why_unreadable: str | None = None

    def offsets(self, unit_rows: int) -> Sequence[int]:
        """The offset of each unit in the file: a byte or, without `marks`, a row."""
        return self.marks.every(unit_rows) if self.marks else range(0, self.rows, unit_rows)


@dataclass(frozen=True)
class FileSpec:
    """How to read one file. Can be pickled."""

    #: The original, for messages.
    origin: str
    format: Format
    #: Size of the file in bytes; any other size means that it changed after the survey.
    size: int
    #: Pipeline's names of its columns -> the file's names.
    columns: dict[str, str]
    #: `FileFacts.layout`.
    layout: Any = None
    #: The file's names of JSON columns whose values are text or `Written`.
    as_written: frozenset[str] = frozenset()
    #: Whether a list or an object becomes JSON text in a column that has to be text.
    nested_as_json: bool = False

    def changed(self, found: str) -> RunError:
        """The error for a file that changed after the survey; ``found`` describes how."""
        return RunError(
            f"source {self.origin}: changed since the run began: found {found}. Start the run "
            "again: what it did on unchanged files is kept"
        )


@dataclass
class Cells:
    """The rows of a unit by the file's own columns, with the faults of malformed rows."""

    #: The file's column name -> values.
    columns: Mapping[str, Sequence[Any] | pa.ChunkedArray]
    rows: int
    #: Row number within the unit -> reason why it is malformed.
    faults: dict[int, str] = field(default_factory=dict)
    #: Row number within the unit -> raw text of a malformed row.
    raw: dict[int, str] = field(default_factory=dict)
