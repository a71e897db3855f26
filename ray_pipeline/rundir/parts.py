"""Parts: the committed rows of one unit after one segment, with their account in the footer.

A unit is done if and only if its part exists under its final name. Every attempt at a unit writes
the same name, so that repeating one is harmless.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import kept
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import part_of, part_path

_FOOTER_KEY = b"ray_pipeline"
#: Files up to this many bytes are read whole. Parquet's reader fetches this much of a file's end
#: for the footer anyway, so the rows of a small part cost no further request to object storage.
_READ_AT_ONCE = 64 * 1024
#: The limits of `OpenedParts`: at most 64 MiB of small parts, and about 20 MiB of footers.
_PARTS_KEPT = 1_000
_INFOS_KEPT = 10_000


@dataclass(frozen=True)
class PartInfo:
    """The content of a part's footer: what it was made from, and its account."""

    #: Identity of the stages that made it.
    fingerprint: str
    #: Digest of the rows that they read; the unit's id where they read the source.
    input_digest: str
    #: Digest of the kept rows: what the next segment reads.
    digest: str
    rows: int
    accounts: list[StageAccount]


def write_part(
    storage: Storage,
    path: str,
    rows: pa.Table,
    *,
    fingerprint: str,
    input_digest: str,
    accounts: list[StageAccount],
) -> PartInfo:
    """Commit a unit: write its rows, account and fingerprint atomically under the final name.

    Args:
        storage: the run directory.
        path: of the part.
        rows: all rows of the unit, with their envelope.
        fingerprint: identity of the stages that made them.
        input_digest: digest of the rows that they read.
        accounts: one for each stage.

    Raises:
        RunError: storage failed.
    """
    info = PartInfo(fingerprint, input_digest, _digest(kept(rows)), rows.num_rows, accounts)
    footer = {
        "fingerprint": info.fingerprint,
        "input_digest": info.input_digest,
        "digest": info.digest,
        "accounts": [account.to_json() for account in accounts],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata({_FOOTER_KEY: orjson.dumps(footer)}),
        sink,
        compression="zstd",
    )
    storage.write_bytes(path, sink.getvalue())
    return info


def _digest(rows: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks())
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


class Part:
    """A committed part: its footer is read when it is opened, its rows only on request.

    Args:
        uri: of the part, for messages.
        file: the open file, or all of its bytes.
    """

    def __init__(self, uri: str, file: pa.NativeFile | pa.Buffer) -> None:
        self._uri = uri
        self._file = file
        self._metadata = pq.read_metadata(self._source())
        self.schema: pa.Schema = self._metadata.schema.to_arrow_schema().remove_metadata()

    def _source(self) -> pa.NativeFile:
        return pa.BufferReader(self._file) if self.is_in_memory else self._file

    @property
    def is_in_memory(self) -> bool:
        """Whether the file was small enough to be read whole."""
        return isinstance(self._file, pa.Buffer)

    @cached_property
    def info(self) -> PartInfo:
        """The content of the footer."""
        footer = orjson.loads(self._metadata.metadata[_FOOTER_KEY])
        return PartInfo(
            fingerprint=footer["fingerprint"],
            input_digest=footer["input_digest"],
            digest=footer["digest"],
            rows=self._metadata.num_rows,
            accounts=[StageAccount.from_json(account) for account in footer["accounts"]],
        )

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, whatever their status, with all columns or those named.

        Raises:
            RunError: the file cannot be read, or has no such column.
        """
        names = self.schema.names if columns is None else list(columns)
        if missing := set(names) - set(self.schema.names):
            raise RunError(f"cannot read {self._uri}: it has no column {sorted(missing)}")
        try:
            parquet = pq.ParquetFile(self._source(), metadata=self._metadata, pre_buffer=True)
            return parquet.read(names).replace_schema_metadata(None).select(names)
        except (OSError, pa.ArrowInvalid) as error:
            raise RunError(f"cannot read {self._uri}: {error}") from error


def open_part(storage: Storage, path: str) -> Part | None:
    """Open a part; None when there is none, or when a power loss left the file incomplete.

    Raises:
        RunError: storage failed.
    """
    try:
        file = storage.open(path)
        whole = file.size() <= _READ_AT_ONCE
        return Part(storage.uri(path), file.read_buffer() if whole else file)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    except OSError as error:
        raise RunError(f"cannot read {storage.uri(path)}: {error}") from error


class OpenedParts:
    """A cache of opened parts of one run. Safe to use from several threads.

    Memory is bounded: small parts that were used recently are kept whole, and the footers of a
    larger number of parts.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._parts: OrderedDict[str, Part] = OrderedDict()
        self._infos: OrderedDict[str, PartInfo] = OrderedDict()

    def open(self, path: str) -> Part | None:
        """Like `open_part`, from the cache where possible."""
        with self._lock:
            part = self._parts.get(path)
        if part is None:
            part = open_part(self._storage, path)
            if part is not None:
                self._remember(path, part)
        return part

    def info(self, path: str) -> PartInfo | None:
        """Like `read_info`, from the cache where possible."""
        with self._lock:
            info = self._infos.get(path)
        if info is None and (part := self.open(path)) is not None:
            info = part.info
        return info

    def _remember(self, path: str, part: Part) -> None:
        with self._lock:
            self._infos[path] = part.info
            if part.is_in_memory:
                self._parts[path] = part
            while len(self._infos) > _INFOS_KEPT:
                self._infos.popitem(last=False)
            while len(self._parts) > _PARTS_KEPT:
                self._parts.popitem(last=False)


def missing_part(storage: Storage, path: str) -> RunError:
    """The error for a committed part that is gone, with the way to make it again."""
    folder, unit_id = part_of(path)
    return RunError(
        f"{storage.uri(folder)}: unit {unit_id} is missing: delete that folder and run again"
    )


def existing_part(storage: Storage, path: str) -> Part:
    """Open a part that must exist.

    Raises:
        RunError: the part is gone or incomplete; the message says what to do.
    """
    part = open_part(storage, path)
    if part is None:
        raise missing_part(storage, path)
    return part


def read_info(storage: Storage, path: str) -> PartInfo | None:
    """A part's footer; None when there is no part, or a power loss left the file incomplete."""
    part = open_part(storage, path)
    return None if part is None else part.info


def read_infos(storage: Storage, folder: str, unit_ids: Sequence[str]) -> list[PartInfo | None]:
    """The footers of a segment's parts for the given units; None where there is no part."""
    with ThreadPoolExecutor(16) as threads:
        paths = [part_path(folder, unit_id) for unit_id in unit_ids]
        return list(threads.map(lambda path: read_info(storage, path), paths))


def existing_infos(storage: Storage, folder: str, unit_ids: Sequence[str]) -> list[PartInfo]:
    """The footers of a segment's parts, which must all exist.

    Raises:
        RunError: a part is gone; the message names it.
    """
    infos = []
    for unit_id, info in zip(unit_ids, read_infos(storage, folder, unit_ids), strict=True):
        if info is None:
            raise missing_part(storage, part_path(folder, unit_id))
        infos.append(info)
    return infos


def read_rows(storage: Storage, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a part that must exist, with all columns or those named.

    Raises:
        RunError: the part is gone or cannot be read.
    """
    return existing_part(storage, path).rows(columns)
