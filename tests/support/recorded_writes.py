"""Records what a run writes on a local disk, in every process, and replays any part of it.

Record: make a folder ``RUN.writes`` beside the run directory, and run a job whose stages are in
`power_stages`: importing it installs the recorder in the workers, too. Every change of a file's
name, every sync and every line that is appended is a record, in one order over all processes.

Replay: `Disk` knows, after any number of records, what the files hold for processes (`now`), and
what a power loss leaves at least (`synced`): content and names that no sync has put on disk are
gone.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_pipeline.core.storage import Storage

#: A file system's files, by their paths in the run directory.
Files = dict[str, bytes]

_LOG = "log.jsonl"
_original = {
    name: getattr(os, name) for name in ("replace", "rename", "fsync", "mkdir", "write", "open")
}


def _place(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """The folder of records and the path in the run directory; None: it is not recorded."""
    full = Path(os.path.abspath(path))
    for root in (full, *full.parents)[:-1]:
        records = root.with_name(f"{root.name}.writes")
        if records.is_dir():
            return records, full.relative_to(root).as_posix()
    return None


@contextmanager
def _in_order(records: Path) -> Iterator[Callable[..., None]]:
    with (records / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def note(kind: str, path: str, other: str = "", content: bytes | None = None) -> None:
            name = ""
            if content is not None:
                name = hashlib.sha256(content).hexdigest()
                (records / name).exists() or (records / name).write_bytes(content)
            with (records / _LOG).open("a") as log:
                log.write(json.dumps([kind, path, other, name]) + "\n")

        yield note


def _path_of(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")


def _fsync(file: int) -> None:
    if (place := _place(_path_of(file))) is None:
        return _original["fsync"](file)
    with _in_order(place[0]) as note:
        _original["fsync"](file)
        path = Path(_path_of(file))
        if path.is_dir():
            note("sync folder", place[1])
        else:
            note("sync", place[1], content=path.read_bytes())


def _write(file: int, data: bytes) -> int:
    place = None
    path = _path_of(file)
    if path.endswith(".jsonl"):
        place = _place(path)
    if place is None:
        return _original["write"](file, data)
    with _in_order(place[0]) as note:
        written = _original["write"](file, data)
        note("append", place[1], content=bytes(data[:written]))
        return written


def _renaming(name: str) -> Callable[..., None]:
    def rename(source: Any, target: Any, **options: Any) -> None:
        place = None if options else _place(target)
        if place is None:
            return _original[name](source, target, **options)
        with _in_order(place[0]) as note:
            here = _place(source)
            assert here is not None, source
            path = Path(target)
            _original[name](source, target)
            # A file that nothing has synced is in no record yet.
            note("rename", here[1], place[1], path.read_bytes() if path.is_file() else None)

    return rename


def _mkdir(path: Any, *arguments: Any, **options: Any) -> None:
    place = None if "dir_fd" in options else _place(path)
    if place is None:
        return _original["mkdir"](path, *arguments, **options)
    with _in_order(place[0]) as note:
        _original["mkdir"](path, *arguments, **options)
        note("mkdir", place[1])


def _open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
    place = _place(path) if flags & os.O_CREAT and not options else None
    if place is None or os.path.exists(path):
        return _original["open"](path, flags, *arguments, **options)
    with _in_order(place[0]) as note:
        note("create", place[1])
        return _original["open"](path, flags, *arguments, **options)


def _deleting(kind: str, delete: Callable[[Storage, str], None]) -> Callable[[Storage, str], None]:
    @functools.wraps(delete)
    def recorded(self: Storage, path: str) -> None:
        place = _place(self.local_path(path)) if self.is_local else None
        # The sync after it is a record of its own: the lock must be free for it.
        if place is not None and self.exists(path):
            with _in_order(place[0]) as note:
                note(kind, place[1])
        delete(self, path)

    recorded.is_recorder = True  # type: ignore[attr-defined]
    return recorded


def install() -> None:
    """Record from now on, in this process."""
    os.fsync, os.write, os.mkdir, os.open = _fsync, _write, _mkdir, _open  # type: ignore[assignment]
    os.replace, os.rename = _renaming("replace"), _renaming("rename")  # type: ignore[assignment]
    if not hasattr(Storage.delete, "is_recorder"):
        Storage.delete = _deleting("delete", Storage.delete)  # type: ignore[method-assign]
        Storage.delete_folder = _deleting(  # type: ignore[method-assign]
            "delete", Storage.delete_folder
        )


def uninstall() -> None:
    """Record no more in this process."""
    for name, function in _original.items():
        setattr(os, name, function)
    for name in ("delete", "delete_folder"):
        function = getattr(Storage, name)
        setattr(Storage, name, getattr(function, "__wrapped__", function))


@dataclass(frozen=True)
class Record:
    """One change that a run made."""

    kind: str
    path: str
    other: str
    content: bytes | None


@dataclass
class _File:
    now: bytes = b""
    synced: bytes = b""


@dataclass
class _Folder:
    now: dict[str, _File | _Folder] = field(default_factory=dict)
    synced: dict[str, _File | _Folder] = field(default_factory=dict)


class Disk:
    """A run directory while records are replayed."""

    def __init__(self) -> None:
        self._root = _Folder()

    def _folder(self, path: str) -> _Folder:
        folder = self._root
        for name in filter(None, path.split("/")):
            found = folder.now.setdefault(name, _Folder())
            assert isinstance(found, _Folder), path
            folder = found
        return folder

    def _file(self, path: str) -> _File:
        parent, _, name = path.rpartition("/")
        found = self._folder(parent).now.setdefault(name, _File())
        assert isinstance(found, _File), path
        return found

    def apply(self, record: Record) -> None:
        """Make a change."""
        parent, _, name = record.path.rpartition("/")
        if record.kind == "mkdir":
            self._folder(record.path)
        elif record.kind == "sync folder":
            folder = self._folder(record.path if record.path != "." else "")
            folder.synced = dict(folder.now)
        elif record.kind == "create":
            self._file(record.path)
        elif record.kind == "delete":
            self._folder(parent).now.pop(name, None)
        elif record.kind == "rename":
            entries = self._folder(parent).now
            if record.content is not None and name not in entries:
                entries[name] = _File(record.content)
            target, _, final = record.other.rpartition("/")
            self._folder(target).now[final] = entries.pop(name)
        else:
            assert record.content is not None
            file = self._file(record.path)
            if record.kind == "append":
                file.now += record.content
            else:
                file.now = file.synced = record.content

    def now(self) -> Files:
        """What processes see; also what a power loss leaves at most."""
        return dict(_files(self._root, lambda folder: folder.now, lambda file: file.now))

    def synced(self) -> Files:
        """What a power loss leaves at least."""
        return dict(_files(self._root, lambda folder: folder.synced, lambda file: file.synced))


def _files(
    folder: _Folder,
    entries: Callable[[_Folder], Mapping[str, _File | _Folder]],
    content: Callable[[_File], bytes],
    prefix: str = "",
) -> Iterator[tuple[str, bytes]]:
    for name, entry in entries(folder).items():
        if isinstance(entry, _File):
            yield prefix + name, content(entry)
        else:
            yield from _files(entry, entries, content, f"{prefix}{name}/")


def torn(record: Record, before: Files, after: Files) -> Iterator[tuple[str, Files]]:
    """What a disk that does not keep the order may make of a change: its kind, and the files."""
    if record.kind not in ("rename", "append"):
        return
    changed = {path: data for path, data in after.items() if before.get(path) != data}
    for kind in ("empty", "half", "zeros"):
        files = dict(after)
        for path, data in changed.items():
            kept = before.get(path, b"") if record.kind == "append" else b""
            new = data[len(kept) :]
            cut = {"empty": b"", "half": new[: len(new) // 2], "zeros": bytes(len(new))}[kind]
            files[path] = kept + cut
        yield kind, files


def write_files(run_dir: Path, files: Files) -> None:
    """Make a run directory of some files."""
    for path, data in files.items():
        target = run_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def start_recording(run_dir: Path) -> None:
    """Make the folder of records of a run directory that is about to be written."""
    run_dir.with_name(f"{run_dir.name}.writes").mkdir()


def stop_recording(run_dir: Path) -> list[Record]:
    """The records of a run; later runs in its directory leave none."""
    records = run_dir.with_name(f"{run_dir.name}.writes")
    records = records.rename(records.with_name(f"{uuid.uuid4().hex}.records"))
    lines = map(json.loads, (records / _LOG).read_text().splitlines())
    return [
        Record(kind, path, other, (records / name).read_bytes() if name else None)
        for kind, path, other, name in lines
    ]
