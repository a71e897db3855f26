"""``files.json``: the size and checksum of each file that a run made besides rows and answers.

Rows, units and answers carry their checksums in themselves. Exported files, trained models,
figures and the description of the run are in other programs' formats: what they were when they
were written is in this list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import xxhash

from ray_pipeline.core.storage import Storage, StoredFile
from ray_pipeline.rundir.checksums import Damaged, DamagedFile, checked_json, json_with_checksum
from ray_pipeline.rundir.layout import FILES_FILE

_PIECE = 8 * 1024 * 1024
_THREADS = 8


@dataclass(frozen=True)
class Recorded:
    """What a file was when it was written."""

    bytes: int
    #: Of its content; None on object storage, which guards the bytes of its objects.
    xxh3: str | None
    #: The stage that made it; empty where none did.
    stage: str = ""
    #: Digest of the rows that an exported file holds; empty where it holds none.
    rows_digest: str = ""


def recorded_files(storage: Storage) -> dict[str, Recorded]:
    """The list of files, by path; empty in runs of earlier versions.

    Raises:
        DamagedFile: the list itself is not what was written.
    """
    raw = storage.read_bytes(FILES_FILE)
    if raw is None:
        return {}
    try:
        files = checked_json(raw)["files"]
        return {path: Recorded(**what) for path, what in files.items()}
    except (Damaged, KeyError, TypeError, AttributeError) as error:
        how = str(error) if isinstance(error, Damaged) else "it is not a list of files"
        raise DamagedFile(
            f"{storage.uri(FILES_FILE)} is damaged: {how}. Delete it and run again: it is made "
            "anew, of the files that are written then",
            how,
        ) from error


def record_files(
    storage: Storage, files: Iterable[StoredFile], stage: str = "", rows_digest: str = ""
) -> None:
    """Put files on the list as they are now.

    Args:
        storage: the run directory. One process at a time may call this.
        files: the files.
        stage: the stage that made them.
        rows_digest: digest of the rows that they hold.
    """
    files = list(files)

    def record(file: StoredFile) -> Recorded:
        digest = content_digest(storage, file.path) if storage.is_local else None
        return Recorded(file.size, digest, stage, rows_digest)

    with ThreadPoolExecutor(_THREADS) as threads:
        paths = (file.path for file in files)
        _add(storage, dict(zip(paths, threads.map(record, files), strict=True)))


def write_recorded(storage: Storage, contents: Mapping[str, bytes]) -> None:
    """Write small files, and put them on the list."""
    for path, data in contents.items():
        storage.write_bytes(path, data)
    digests = {path: xxhash.xxh3_128_hexdigest(data) for path, data in contents.items()}
    _add(storage, {p: Recorded(len(contents[p]), digest) for p, digest in digests.items()})


def _add(storage: Storage, files: Mapping[str, Recorded]) -> None:
    try:
        recorded = recorded_files(storage)
    except DamagedFile:
        recorded = {}
    recorded |= files
    data = {path: asdict(recorded[path]) for path in sorted(recorded)}
    storage.write_bytes(FILES_FILE, json_with_checksum({"files": data}))


def files_at(storage: Storage, path: str) -> Iterator[StoredFile]:
    """The file at a path, or all files in the folder there, at any depth."""
    folder, _, _ = path.rpartition("/")
    file = next((file for file in storage.files(folder) if file.path == path), None)
    if file is None:
        yield from storage.files(path, recursive=True)
    else:
        yield file


def content_digest(storage: Storage, path: str) -> str:
    """The checksum of a file's content, read a bounded number of bytes at a time."""
    digest = xxhash.xxh3_128()
    with storage.open(path) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def differences(storage: Storage, recorded: Mapping[str, Recorded]) -> Iterator[tuple[str, str]]:
    """Files that are not what was written, each with the end of a sentence that says how.

    Args:
        storage: the run directory.
        recorded: what the files were, by path.

    Raises:
        RunError: storage cannot be read.
    """
    by_folder: dict[str, list[str]] = {}
    for path in recorded:
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    for folder, paths in by_folder.items():
        sizes = {file.path: file.size for file in storage.files(folder)}
        for path in paths:
            how = _difference(storage, path, recorded[path], sizes.get(path))
            if how is not None:
                yield path, how


def _difference(storage: Storage, path: str, was: Recorded, size: int | None) -> str | None:
    if size is None:
        return "is missing"
    if size != was.bytes:
        return f"is damaged: it has {size} bytes, and {was.bytes} were written"
    if was.xxh3 is not None and content_digest(storage, path) != was.xxh3:
        return "is damaged: it has another checksum than when it was written"
    return None
