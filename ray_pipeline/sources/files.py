"""Opens source files, local or on object storage, and hashes their content."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, cast

import pyarrow.fs as pafs

from ray_pipeline.core import storage
from ray_pipeline.core.errors import UserError

#: Buffer sizes in bytes, for reading a whole file and for reading one unit.
WHOLE_FILE_BUFFER = 4 << 20
UNIT_BUFFER = 256 << 10


def locate(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system and path of a URI; connections to object storage are cached.

    Raises:
        UserError: the scheme is not known.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return storage.filesystem(uri)
    bucket, _, key = rest.partition("/")
    account = (os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_ACCESS_KEY_ID"))
    fs, root = _connect(f"{scheme}://{bucket}", account)
    return fs, f"{root.rstrip('/')}/{key}" if key else root


@lru_cache(maxsize=16)
def _connect(root: str, account: tuple[str | None, ...]) -> tuple[pafs.FileSystem, str]:
    # The account only serves as a cache key: the file system reads it from the environment itself.
    return storage.filesystem(root)


def open_binary(uri: str, buffer: int = WHOLE_FILE_BUFFER) -> BinaryIO:
    """Open a file for buffered reading and seeking. Raises OSError as `open` does."""
    fs, path = locate(uri)
    if isinstance(fs, pafs.LocalFileSystem):
        return open(path, "rb", buffering=buffer)
    # A NativeFile has all of a raw file's methods, and lacks a fast `readline`.
    return cast(BinaryIO, io.BufferedReader(cast(Any, fs.open_input_file(path)), buffer))


def size_of(file: BinaryIO) -> int:
    """Size in bytes of an open file; its position does not change."""
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    return size


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Convert the operating system's errors on reading ``uri`` into user errors.

    Raises:
        UserError: instead of OSError.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"source {uri}: there is no such file") from None
    except PermissionError:
        raise UserError(
            f"source {uri}: no permission to read it: give this user the right to read the file"
        ) from None
    except OSError as error:
        raise UserError(f"source {uri}: cannot be read: {error}") from error


def head_of(uri: str, size: int = 1 << 20) -> bytes:
    """The first bytes of a file. Raises OSError."""
    with open_binary(uri, buffer=size) as file:
        return file.read(size)


def content_hash(uri: str) -> str:
    """SHA-256 of a file's bytes. Raises OSError."""
    with open_binary(uri) as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


class HashingReader(io.RawIOBase):
    """A raw file that hashes all bytes read through it, so one pass both parses and hashes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """True: the file is open for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into ``buffer``; returns their number."""
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._hash.update(memoryview(buffer)[:count])
        return cast(int, count)

    def finish(self) -> str:
        """Read to the end of the file; returns the SHA-256 of the whole file."""
        while self.read(WHOLE_FILE_BUFFER):
            pass
        return self._hash.hexdigest()
