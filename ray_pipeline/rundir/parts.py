"""Parts: the committed rows of one unit after one segment, with their account in the footer.

A unit is done if and only if its part exists under its final name. Every attempt at a unit writes
the same name, so that repeating one is harmless. What is read is verified: a part that is not what
was written raises `DamagedPart`, which names the file and says how it is made again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import kept
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.checksums import CheckedFile, Damaged, DamagedFile, with_checksums
from ray_pipeline.rundir.layout import part_of, part_path, rows_folder

_FOOTER_KEY = b"ray_pipeline"
#: How a part that is not there is made again, and one that is not what was written.
HOW_TO_MAKE = (
    "run again: its unit is made again, with the stored answers where a language model was asked"
)
HOW_TO_REPAIR = f"Delete it and {HOW_TO_MAKE}"
OTHER_STAGES = "it was made by other stages, or by another configuration of them"
#: The limits of `OpenedParts`: at most 64 MiB of small parts, and about 20 MiB of footers.
_PARTS_KEPT = 1_000
_INFOS_KEPT = 10_000


class DamagedPart(DamagedFile):
    """A part is gone, or is not what was written. The message names it and how to make it again."""


def damaged(storage: Storage, path: str, how: str) -> DamagedPart:
    """The error for a part that is not what was written.

    Args:
        storage: the run directory.
        path: of the part.
        how: what is wrong with it, as a sentence without its subject's name.
    """
    return DamagedPart(f"{storage.uri(path)} is damaged: {how}. {HOW_TO_REPAIR}", how)


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
    #: The unit whose rows it holds; None in parts of earlier versions.
    unit_id: str | None = None
    #: Whether the file has checksums; parts of earlier versions have none.
    has_checksums: bool = True


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
    _, unit_id = part_of(path)
    digest = _digest(kept(rows))
    info = PartInfo(fingerprint, input_digest, digest, rows.num_rows, accounts, unit_id)
    footer = {
        "unit_id": unit_id,
        "checksums": "xxh3",
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
    storage.write_bytes(path, with_checksums(sink.getvalue()))
    return info


def _digest(rows: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks())
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


class Part:
    """A committed part: its footer is read when it is opened, its rows only on request.

    Args:
        storage: the run directory.
        path: of the part.
        file: the open file.

    Raises:
        DamagedPart: it is not what was written, or holds the rows of another unit.
        OSError: it cannot be read.
    """

    def __init__(self, storage: Storage, path: str, file: pa.NativeFile) -> None:
        self._storage, self._path = storage, path
        try:
            self._file = CheckedFile(file)
            self.info = _info(self._file)
        except Damaged as error:
            raise self._damaged(error) from error
        _, unit_id = part_of(path)
        if self.info.unit_id not in (None, unit_id):
            raise self._damaged(f"it holds the rows of unit {self.info.unit_id}")
        self.schema: pa.Schema = self._file.metadata.schema.to_arrow_schema().remove_metadata()

    def _damaged(self, how: object) -> DamagedPart:
        return damaged(self._storage, self._path, str(how))

    @property
    def is_in_memory(self) -> bool:
        """Whether the file was small enough to be read whole."""
        return self._file.whole is not None

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, whatever their status, with all columns or those named.

        Raises:
            RunError: the file cannot be read, or has no such column.
            DamagedPart: these columns are not what was written.
        """
        names = self.schema.names if columns is None else list(columns)
        if missing := set(names) - set(self.schema.names):
            uri = self._storage.uri(self._path)
            raise RunError(f"cannot read {uri}: it has no column {sorted(missing)}")
        try:
            return self._file.read(names)
        except Damaged as error:
            raise self._damaged(error) from error
        except OSError as error:
            raise RunError(f"cannot read {self._storage.uri(self._path)}: {error}") from error

    def verify(self) -> None:
        """Read and verify the whole file, of any size, in bounded memory.

        Raises:
            DamagedPart: it is not what was written.
            RunError: it cannot be read.
        """
        try:
            self._file.verify()
        except Damaged as error:
            raise self._damaged(error) from error
        except OSError as error:
            raise RunError(f"cannot read {self._storage.uri(self._path)}: {error}") from error


def _info(file: CheckedFile) -> PartInfo:
    """The account and identity in a part's footer.

    Raises:
        Damaged: they are not there, or do not fit the rows.
    """
    try:
        footer = orjson.loads(file.metadata.metadata[_FOOTER_KEY])
        info = PartInfo(
            fingerprint=footer["fingerprint"],
            input_digest=footer["input_digest"],
            digest=footer["digest"],
            rows=file.metadata.num_rows,
            accounts=[StageAccount.from_json(account) for account in footer["accounts"]],
            unit_id=footer.get("unit_id"),
            has_checksums=file.has_checksums,
        )
    except Exception as error:  # of any kind: the footer may hold anything
        raise Damaged("its footer has no account of a unit") from error
    if "checksums" in footer and not file.has_checksums:
        raise Damaged("its checksums are gone")
    if info.accounts and info.rows != _rows_of(info.accounts):
        raise Damaged(f"it holds {info.rows} rows, and its account {_rows_of(info.accounts)}")
    return info


def _rows_of(accounts: Sequence[StageAccount]) -> int:
    return accounts[0].rows_in + sum(account.created for account in accounts)


def open_part(storage: Storage, path: str) -> Part | None:
    """Open a part; None when there is none.

    Raises:
        DamagedPart: it is not what was written.
        RunError: storage failed.
    """
    try:
        return Part(storage, path, storage.open(path))
    except FileNotFoundError:
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


def missing_part(storage: Storage, path: str) -> DamagedPart:
    """The error for a committed part that is gone, with the way to make it again."""
    return DamagedPart(f"{storage.uri(path)} is missing: {HOW_TO_MAKE}", "it is missing")


def existing_part(storage: Storage, path: str) -> Part:
    """Open a part that must exist.

    Raises:
        DamagedPart: the part is gone or damaged; the message says what to do.
    """
    part = open_part(storage, path)
    if part is None:
        raise missing_part(storage, path)
    return part


def read_info(storage: Storage, path: str) -> PartInfo | None:
    """A part's footer; None when there is no part, or it is damaged: it counts as not done."""
    try:
        part = open_part(storage, path)
    except DamagedPart:
        return None
    return None if part is None else part.info


def read_infos(storage: Storage, folder: str, unit_ids: Sequence[str]) -> list[PartInfo | None]:
    """The footers of a segment's parts for the given units; None as for `read_info`."""
    with ThreadPoolExecutor(16) as threads:
        paths = [part_path(folder, unit_id) for unit_id in unit_ids]
        return list(threads.map(lambda path: read_info(storage, path), paths))


def existing_infos(storage: Storage, folder: str, unit_ids: Sequence[str]) -> list[PartInfo]:
    """The footers of a segment's parts, which must all exist.

    Raises:
        DamagedPart: a part is gone or damaged; the message names it.
    """
    with ThreadPoolExecutor(16) as threads:
        paths = [part_path(folder, unit_id) for unit_id in unit_ids]
        return list(threads.map(lambda path: existing_part(storage, path).info, paths))


def sweep_parts(storage: Storage, folder: str, unit_ids: Sequence[str]) -> None:
    """Delete the parts of a segment that are of units which the source no longer has."""
    wanted = {part_path(folder, unit_id) for unit_id in unit_ids}
    for path in list(storage.list(rows_folder(folder))):
        if path not in wanted:
            storage.delete(path)


def read_rows(storage: Storage, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a part that must exist, with all columns or those named.

    Raises:
        DamagedPart: the part is gone or damaged.
        RunError: it cannot be read.
    """
    return existing_part(storage, path).rows(columns)
