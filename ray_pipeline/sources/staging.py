"""Where copies of source files lie, and how they get there whole.

A file that cannot be entered in the middle is copied: decompressed, as lines, in small groups. A
copy is named by the hash of its original's content, so that the next run finds it again, and
appears under its name only when it is whole.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.fs as pafs

from ray_pipeline.core.errors import RunError
from ray_pipeline.sources.files import locate

_CHUNK = 1 << 20


def staged_uri(scratch: str, name: str) -> str:
    """URI of a staged file; of a local one the absolute path, since workers start elsewhere."""
    uri = f"{scratch.rstrip('/')}/{name}"
    fs, path = locate(uri)
    return path if isinstance(fs, pafs.LocalFileSystem) else uri


def is_there(uri: str) -> bool:
    """Whether a file was staged before."""
    fs, path = locate(uri)
    return bool(fs.get_file_info(path).is_file)


@contextmanager
def publish(uri: str) -> Iterator[BinaryIO]:
    """A stream whose content appears under ``uri`` at the end, and not at all after an error.

    Raises:
        RunError: it cannot be written.
    """
    fs, path = locate(uri)
    try:
        if isinstance(fs, pafs.LocalFileSystem):
            with _renamed_at_the_end(Path(path)) as stream:
                yield stream
            return
        # An object appears when its upload is completed: a killed process leaves none.
        with fs.open_output_stream(path) as remote:
            try:
                yield cast(BinaryIO, remote)
            except BaseException:
                remote.close()
                fs.delete_file(path)
                raise
    except OSError as error:
        raise RunError(f"cannot write {uri}: {error}") from error


@contextmanager
def _renamed_at_the_end(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb", buffering=_CHUNK) as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
