"""Writes on a local disk that survive a power loss, one after the other.

A file is written under another name, synced, renamed, and then its folder is synced. So a file
that has its name is complete, and what is written later is never on disk without what was written
before it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

#: What some network file systems answer when a folder is synced: they have nothing to sync.
_CANNOT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose content replaces a file in one step when the block ends well.

    Missing folders are made. When the block has ended, the file survives a power loss.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        # By its name: a writer that was given the stream may have closed it.
        sync_file(temporary)
        _rename(temporary, path)
    except BaseException:
        # The error that ended the writing is the one to report.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def replace_folder(made: Path, folder: Path) -> None:
    """Put a folder that was made beside its place there, instead of what is there.

    After a power loss in between there may be no folder, but never half of one.

    Raises:
        OSError: it cannot be put there.
    """
    sync_tree(made)
    make_folder(folder.parent)
    if not os.path.lexists(folder):
        _rename(made, folder)
        return
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file has the name of this folder", str(folder))
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    os.replace(folder, old)
    _rename(made, folder)
    shutil.rmtree(old)


def _rename(made: Path, final: Path) -> None:
    os.replace(made, final)
    sync_folder(final.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, so that they survive a power loss.

    Raises:
        OSError: it cannot be made, or is a file.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_file(path: Path) -> None:
    """Put the content of a file on disk."""
    _sync(path)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk: those of new, renamed and deleted files."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise


def sync_tree(folder: Path) -> None:
    """Put a folder with all its files on disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
