"""Durable storage: a folder on a local disk or on object storage, with atomic writes.

Every file of a run goes through a `Storage`. Paths are relative to its root and use ``/``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from ray_pipeline.core.durable_files import replacing, sync_folder
from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.references import login_of, resolve_login

#: Bytes of the longest name of a file or folder on Linux and macOS.
_NAME_BYTES = 255


class Hold(Protocol):
    """Says whether a run still holds its folder."""

    def check(self) -> None:
        """Return if it does. Raises LockLost otherwise."""


@dataclass(frozen=True)
class StoredFile:
    """A file, as a listing shows it."""

    path: str
    size: int
    #: When it was last written, in nanoseconds since 1970, by the clock of the storage.
    modified_ns: int


@dataclass(frozen=True)
class Storage:
    """A folder at a local path or a URI (``s3://bucket/prefix``).

    Object storage takes its endpoint and credentials from the usual environment variables
    (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...), or from others that the URI names, as in
    ``s3://${KEY}:${SECRET}@bucket/prefix``.

    Raises:
        UserError: the URI names no known file system.
        RunError: reading or writing failed (full, no permission, gone), with the path.
    """

    root: str
    #: Checked before each write; None: nothing is.
    hold: Hold | None = field(default=None, compare=False, repr=False)

    def held_by(self, hold: Hold) -> Storage:
        """The same folder, written only while a run holds it, in whatever process."""
        return replace(self, hold=hold)

    def check_held(self) -> None:
        """Check that the run may write, or spend: a process may have been paused and replaced.

        Raises:
            LockLost: another run holds the folder by now.
        """
        if self.hold is not None:
            self.hold.check()

    @cached_property
    def _located(self) -> tuple[pafs.FileSystem, str]:
        if any(len(os.fsencode(name)) > _NAME_BYTES for name in self.root.split("/")):
            raise UserError(f"{self.root}: a name too long for a folder: shorten it")
        return filesystem(self.root)

    @property
    def is_local(self) -> bool:
        """Whether files can be appended to and locked."""
        return isinstance(self._located[0], pafs.LocalFileSystem)

    @property
    def scheme(self) -> str:
        """That of the URI, such as ``s3``; empty for a local path."""
        return urlsplit(self.root).scheme if "://" in self.root else ""

    def full_path(self, path: str) -> str:
        """A file's path on its file system: the bucket and the key, on object storage."""
        return self._full(path)

    def local_path(self, path: str = "") -> Path:
        """The path on this machine's file system; only where `is_local`."""
        return Path(self._full(path))

    def make_private(self, path: str = "") -> None:
        """Make a local folder that no other user can enter; one that exists is left as it is.

        Raises:
            OSError: it cannot be made.
        """
        if self.is_local:
            folder = self.local_path(path)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)

    def uri(self, path: str = "") -> str:
        """The full path or URI of a file; without a path, that of the root."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at the path."""
        return self._type(path) != pafs.FileType.NotFound

    def is_file(self, path: str) -> bool:
        """Whether there is a file at the path; a folder is none."""
        return self._type(path) == pafs.FileType.File

    def _type(self, path: str) -> pafs.FileType:
        fs, _ = self._located
        try:
            return fs.get_file_info(self._full(path)).type
        except OSError as error:
            raise RunError(f"cannot read {self.uri(path)}: {error}") from error

    def read_bytes(self, path: str) -> bytes | None:
        """The content of a file, or None when there is no such file."""
        fs, _ = self._located
        try:
            with fs.open_input_file(self._full(path)) as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"cannot read {self.uri(path)}: {error}") from error

    def open(self, path: str) -> pa.NativeFile:
        """Open for random access. Raises FileNotFoundError when there is no such file."""
        fs, _ = self._located
        return fs.open_input_file(self._full(path))

    def write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a file atomically: readers see the old content or all of the new.

        It survives a power loss when this returns, with all that was written before it.

        Args:
            path: relative to the root; missing folders are made.
            data: the whole content.
        """
        self.check_held()
        fs, _ = self._located
        try:
            if self.is_local:
                with replacing(self.local_path(path)) as file:
                    file.write(data)
            else:
                with fs.open_output_stream(self._full(path)) as stream:
                    stream.write(data)
        except OSError as error:
            raise RunError(f"cannot write {self.uri(path)}: {error}") from error

    @contextlib.contextmanager
    def writer(self, path: str) -> Iterator[IO[bytes]]:
        """Write a large file in pieces; it appears under its name when the block ends well.

        It survives a power loss then, with all that was written before it.
        """
        self.check_held()
        local = replacing(self.local_path(path)) if self.is_local else None
        try:
            with local or self._remote_writer(path) as file:
                yield file
        except OSError as error:
            raise RunError(f"cannot write {self.uri(path)}: {error}") from error

    @contextlib.contextmanager
    def _remote_writer(self, path: str) -> Iterator[IO[bytes]]:
        fs, _ = self._located
        stream = fs.open_output_stream(self._full(path))
        try:
            yield stream
        except BaseException:
            # Closing puts what was written so far under the name: there is no way to abandon it.
            with contextlib.suppress(OSError):
                stream.close()
                fs.delete_file(self._full(path))
            raise
        stream.close()

    def list(self, path: str = "", recursive: bool = False) -> Iterator[str]:
        """Paths of the files in a folder, relative to the root, without unfinished writes."""
        for file in self.files(path, recursive):
            yield file.path

    def files(self, path: str = "", recursive: bool = False) -> Iterator[StoredFile]:
        """The files in a folder, without unfinished writes; on S3 one request per thousand."""
        prefix = len(self._located[1].rstrip("/")) + 1
        for info in self._infos(path, recursive):
            name = info.base_name
            if info.is_file and not (name.startswith(".") and name.endswith(".tmp")):
                yield StoredFile(info.path[prefix:], info.size, info.mtime_ns or 0)

    def folders(self, path: str = "") -> Sequence[str]:
        """Names of the folders in a folder."""
        infos = self._infos(path, recursive=False)
        return [info.base_name for info in infos if info.type == pafs.FileType.Directory]

    def _infos(self, path: str, recursive: bool) -> Sequence[pafs.FileInfo]:
        selector = pafs.FileSelector(self._full(path), allow_not_found=True, recursive=recursive)
        try:
            infos: Sequence[pafs.FileInfo] = self._located[0].get_file_info(selector)
        except OSError as error:
            raise RunError(f"cannot read {self.uri(path)}: {error}") from error
        return infos

    def delete(self, path: str) -> None:
        """Delete a file; nothing happens when there is none."""
        self.check_held()
        fs, _ = self._located
        try:
            fs.delete_file(self._full(path))
            self._sync_above(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"cannot delete {self.uri(path)}: {error}") from error

    def delete_folder(self, path: str) -> None:
        """Delete a folder and its content; nothing happens when there is none."""
        self.check_held()
        fs, _ = self._located
        try:
            fs.delete_dir(self._full(path))
            self._sync_above(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"cannot delete {self.uri(path)}: {error}") from error

    def _sync_above(self, path: str) -> None:
        """Let a deletion survive a power loss, before what is written next does."""
        if self.is_local:
            sync_folder(self.local_path(path).parent)

    def _full(self, path: str) -> str:
        root = self._located[1]
        return f"{root.rstrip('/')}/{path}".rstrip("/") if path else root

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "hold": self.hold}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URI, and the path on it.

    Raises:
        UserError: the scheme is not known or the URI is malformed.
    """
    if any(ord(char) < 32 for char in uri):
        raise UserError(f"{uri!r}: has a control character, which no path here may have")
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    uri = resolve_login(uri, uri)
    try:
        if urlsplit(uri).scheme != "s3":
            return pafs.FileSystem.from_uri(uri)
        # With a delayed open a small file is one PUT, not the three requests of a multipart upload.
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            scheme, _, host = endpoint.partition("://")
            options = {"endpoint_override": host, "scheme": scheme, "allow_delayed_open": True}
            if (login := login_of(uri)) is not None:
                options |= dict(zip(("access_key", "secret_key"), login, strict=True))
                uri = f"s3://{uri.partition('@')[2]}"
            return pafs.S3FileSystem(**options), uri.removeprefix("s3://")
        separator = "&" if "?" in uri else "?"
        return pafs.FileSystem.from_uri(f"{uri}{separator}allow_delayed_open=true")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{uri}: not a path or URI that can be opened: {error}") from None
