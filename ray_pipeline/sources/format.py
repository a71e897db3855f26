"""What a file format is: how its files are surveyed once, and how units of them are read.

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

    #: Recorded with every unit.
    name: ClassVar[str]
    #: Whether its files may have an extension like ``.gz`` after their own.
    compressible: ClassVar[bool] = False
    #: Whether every value is text, as in CSV, so that numbers have to be parsed.
    values_are_text: ClassVar[bool] = False

    @abstractmethod
    def scan(self, file: SourceFile, options: ScanOptions, limit: int | None) -> FileFacts:
        """Read a whole file once: what it holds, and where units can begin.

        Args:
            file: to be read; it may be compressed if the format is `compressible`.
            options: of the survey.
            limit: records after which the file is only hashed; None: no limit.

        Raises:
            UserError: the file is not what its name says, is empty, or lacks a column.
            OSError: it cannot be read.
        """

    @abstractmethod
    def read(self, unit: Unit, file: FileSpec) -> Cells:
        """Read the records of one unit; only the bytes around them.

        Raises:
            RunError: the file is not the one that was surveyed.
            OSError, pyarrow.ArrowException: it cannot be read.
        """

    def make_seekable(self, facts: FileFacts, unit_rows: int, scratch: str) -> FileFacts:
        """The same records in a file where reading a unit does not mean reading much more.

        Args:
            facts: from `scan`.
            unit_rows: rows of a unit, now that the size of the whole source is known.
            scratch: folder URI for a copy.
        """
        del unit_rows, scratch
        return facts


@dataclass(frozen=True)
class SourceFile:
    """A file that holds rows, as it was found."""

    #: Absolute path or URI.
    uri: str
    format: Format
    #: ``gzip``, ``bz2``, ``zstd`` or None.
    compression: str | None = None


@dataclass(frozen=True)
class ScanOptions:
    """What a survey asks of every file."""

    config: SourceConfig
    #: Pipeline's name -> type of the columns that must be there.
    required: Mapping[str, pa.DataType]
    unit_rows: int | None
    #: Folder URI for copies.
    scratch: str
    #: Python's name of the configured encoding.
    encoding: str
    #: What to add to the message about a required column that is missing, by its name.
    hints: Mapping[str, str]
    #: Names that the pipeline needs for columns of its own.
    reserved: Collection[str] = ENVELOPE_COLUMNS

    def own_names(self) -> list[str]:
        """The names that the files should have for the required columns."""
        return [self.config.columns.get(name, name) for name in self.required]

    def choose(
        self,
        names: Sequence[str],
        columns: Mapping[str, Column],
        format: Format,
        uri: str,
        how_read: str = "",
    ) -> dict[str, str]:
        """The pipeline's names of a file's columns -> the file's own.

        Args:
            names: of the file's columns, in its order.
            columns: what is known of each.
            format: of the file.
            uri: the file, for messages.
            how_read: how the names were found, for the end of messages.

        Raises:
            UserError: a required column is not there or cannot have its type, or a name is
                there twice or taken.
        """
        required = {name: self.hints.get(name, "") + how_read for name in self.required}
        chosen = choose_columns(names, self.config.columns, required, uri, how_read, self.reserved)
        # Text may well write a number: each value is judged when it is read.
        for name, expected in self.required.items() if not format.values_are_text else ():
            own = chosen[name]
            check_required(name, own, columns[own], expected, uri)
        return chosen


@dataclass(frozen=True)
class FileFacts:
    """What a survey found in one file."""

    rows: int
    #: Malformed rows among them.
    malformed: int
    #: By the file's names, in the file's order.
    columns: dict[str, Column]
    #: Pipeline's name -> the file's name.
    chosen: dict[str, str]
    #: SHA-256 of the original's bytes.
    content: str
    #: The file to read, which may be a copy of the original, and its size in bytes.
    uri: str
    size: int
    #: Whatever else `Format.read` needs to know of the file; can be pickled.
    layout: Any = None
    #: Byte offsets of records; None: a unit is entered by the number of its first row.
    marks: Marks | None = None

    def offsets(self, unit_rows: int) -> Sequence[int]:
        """Where each unit is entered: at a byte, or at a row."""
        return self.marks.every(unit_rows) if self.marks else range(0, self.rows, unit_rows)


@dataclass(frozen=True)
class FileSpec:
    """How to read one file. Can be pickled."""

    #: The original, for messages.
    origin: str
    format: Format
    #: Bytes of the file that is read: another size means that it is not the one surveyed.
    size: int
    #: Pipeline's names of its columns -> its own.
    columns: dict[str, str]
    #: `FileFacts.layout`.
    layout: Any = None

    def changed(self, found: str) -> RunError:
        """The error for a file that is not the one that was surveyed."""
        return RunError(
            f"source {self.origin}: changed since the run began: found {found}. Start the run "
            "again: what it did on unchanged files is kept"
        )


@dataclass
class Cells:
    """The rows of a unit in the file's own columns, and what is wrong with which."""

    #: The file's name -> values.
    columns: Mapping[str, Sequence[Any] | pa.ChunkedArray]
    rows: int
    #: Row in the unit -> reason.
    faults: dict[int, str] = field(default_factory=dict)
    #: Row in the unit -> raw text.
    raw: dict[int, str] = field(default_factory=dict)
