"""Copies of source files that allow reading from the middle.

A file that cannot be read from the middle is copied: decompressed, as JSON Lines, or with small row
groups. A copy is named by the hash of its original's content, so that the next run reuses it, and
appears under its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.fs as pafs

from ray_pipeline.core.durable_files import replacing
from ray_pipeline.core.errors import RunError
from ray_pipeline.sources.files import locate


def staged_uri(scratch: str, name: str) -> str:
    """URI of a copy; an absolute path if local, because workers have another working directory."""
    uri = f"{scratch.rstrip('/')}/{name}"
    fs, path = locate(uri)
    return path if isinstance(fs, pafs.LocalFileSystem) else uri


def is_there(uri: str) -> bool:
    """Whether a copy exists."""
    fs, path = locate(uri)
    return bool(fs.get_file_info(path).is_file)


@contextmanager
def publish(uri: str) -> Iterator[BinaryIO]:
    """A stream whose content appears under ``uri`` when the block ends, and not after an error.

    Raises:
        RunError: the file cannot be written.
    """
    fs, path = locate(uri)
    try:
        if isinstance(fs, pafs.LocalFileSystem):
            with replacing(Path(path)) as stream:
                yield cast(BinaryIO, stream)
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
