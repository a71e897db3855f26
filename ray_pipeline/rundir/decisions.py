"""The stored decisions of a decide stage: a small Parquet file for each unit with any.

A marker says for which rows the decisions were made, and has the checksum of each file: a unit
without a file keeps all its rows, so that one which was lost must not pass for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.checksums import (
    CheckedFile,
    Damaged,
    DamagedFile,
    checked_json,
    json_with_checksum,
)
from ray_pipeline.rundir.layout import DONE, decisions_folder

_THREADS = 16


def mark_decided(storage: Storage, folder: str, identity: str) -> None:
    """Mark the decisions of a segment's folder as complete, with what its files are."""
    data = {"identity": identity, "files": _digests(storage, folder)}
    storage.write_bytes(f"{decisions_folder(folder)}/{DONE}", json_with_checksum(data))


def are_decided(storage: Storage, folder: str, identity: str, say: Callable[[str], None]) -> bool:
    """Whether the decisions of a segment's folder are complete, and what was written.

    Args:
        storage: the run directory.
        folder: of the segment.
        identity: of the stage and the rows that it decides on.
        say: called with a line on each damage. The stage decides again then.
    """
    marker = f"{decisions_folder(folder)}/{DONE}"
    raw = storage.read_bytes(marker)
    if raw is None:
        return False
    if raw == identity.encode():
        return True  # of an earlier version, which did not record the files
    try:
        data = checked_json(raw)
    except Damaged as error:
        if _is_identity(raw):
            return False  # of an earlier version, for other rows
        say(f"{marker} is damaged: {error}. The stage decides again")
        return False
    if data.get("identity") != identity:
        return False
    written, found = data["files"], _digests(storage, folder)
    for path in sorted(written.keys() | found.keys()):
        if written.get(path) != found.get(path):
            how = "is missing" if path not in found else "is damaged: it is not what was written"
            say(f"{path} {how}. The stage decides again")
    return bool(written == found)


def _is_identity(raw: bytes) -> bool:
    return len(raw) == 32 and all(byte in b"0123456789abcdef" for byte in raw)


def _digests(storage: Storage, folder: str) -> dict[str, str]:
    """The checksum of each file of decisions, by path."""
    paths = [p for p in storage.list(decisions_folder(folder)) if p.endswith(".parquet")]

    def digest(path: str) -> str:
        return hashlib.blake2b(storage.read_bytes(path) or b"", digest_size=16).hexdigest()

    with ThreadPoolExecutor(_THREADS) as threads:
        return dict(zip(paths, threads.map(digest, paths), strict=True))


def stored_decisions(storage: Storage, path: str, data: bytes) -> pa.Table:
    """The decisions in a file, which has been read whole.

    Raises:
        DamagedFile: they are not what was written.
    """
    try:
        file = CheckedFile(pa.BufferReader(data))
        return file.read(file.metadata.schema.to_arrow_schema().names)
    except Damaged as error:
        raise DamagedFile(
            f"{storage.uri(path)} is damaged: {error}. Run again: the stage decides again",
            str(error),
        ) from error
