"""Whether the files of a packaged model are those that were published, and that were fetched."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

#: In a fetched folder: the SHA-256 of its files, as `sha256sum` writes and checks them.
SUMS = "weights.sha256"

#: (relative name, size, modification time) of each file.
Listing = tuple[tuple[str, int, int], ...]


def listing(folder: Path) -> Listing:
    """The files of a folder: changes when a file is written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(path, path.stat()) for path in files]
    return tuple((p.relative_to(folder).as_posix(), s.st_size, s.st_mtime_ns) for p, s in stats)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """The files that are not there, or that have another content.

    Args:
        folder: where they are.
        expected: the SHA-256 of each, by its name relative to the folder.
    """
    paths = ((name, folder / name, digest) for name, digest in expected.items())
    return [name for name, path, digest in paths if not path.is_file() or sha256(path) != digest]


def write_sums(folder: Path, without: str) -> None:
    """Record the SHA-256 of a folder's files, except for one file."""
    names = [name for name, _, _ in listing(folder) if name not in (SUMS, without)]
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines))


def damaged(folder: Path, without: str) -> list[str]:
    """The files of a fetched folder that changed since they were recorded.

    Each file is read once in a process, and again when its size or its time has changed. A folder
    that an earlier version fetched has no record: it gets one.
    """
    if not (folder / SUMS).is_file():
        with contextlib.suppress(OSError):  # a folder that several users read
            write_sums(folder, without)
        return []
    return list(_damaged(folder, listing(folder)))


@functools.lru_cache(maxsize=64)
def _damaged(folder: Path, _: Listing) -> tuple[str, ...]:
    lines = (folder / SUMS).read_text().splitlines()
    pairs = [line.split("  ", 1) for line in lines if "  " in line]
    if not pairs:
        return (SUMS,)
    return tuple(differing(folder, {name: digest for digest, name in pairs}))
