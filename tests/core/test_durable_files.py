"""The order of writes and syncs: a file with its name is on disk, and its name is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import recorded_writes
from support.recorded_writes import Disk, Record

from ray_pipeline.core.durable_files import make_folder, replace_folder, replacing
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.responses import Journal, Response


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder whose writes are recorded."""
    folder = tmp_path / "run"
    folder.mkdir()
    recorded_writes.start_recording(folder)
    recorded_writes.install()
    yield folder
    recorded_writes.uninstall()


def ended(run_dir: Path) -> tuple[list[Record], Disk]:
    """The records of what was written, and the disk after them."""
    records, disk = recorded_writes.stop_recording(run_dir), Disk()
    for record in records:
        disk.apply(record)
    return records, disk


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(run_dir: Path) -> None:
    Storage(str(run_dir)).write_bytes("stages/one/done.json", b"{}")
    records, disk = ended(run_dir)
    kinds = [(record.kind, record.other or record.path) for record in records]
    assert kinds[:4] == [
        ("mkdir", "stages"),
        ("sync folder", "."),
        ("mkdir", "stages/one"),
        ("sync folder", "stages"),
    ]
    assert [kind for kind, _ in kinds[4:]] == ["sync", "rename", "sync folder"]
    assert kinds[5:] == [("rename", "stages/one/done.json"), ("sync folder", "stages/one")]
    assert disk.synced() == {"stages/one/done.json": b"{}"}


def test_a_large_file_and_one_whose_stream_was_closed_are_synced(run_dir: Path) -> None:
    storage = Storage(str(run_dir))
    with storage.writer("large") as file:
        file.write(b"some")
        file.write(b"thing")
        file.close()
    storage.write_bytes("gone", b"")
    storage.delete("gone")
    storage.write_bytes("folder/gone", b"")
    storage.delete_folder("folder")
    assert ended(run_dir)[1].synced() == {"large": b"something"}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_put_in_place_whole(run_dir: Path, there: bool) -> None:
    if there:
        make_folder(run_dir / "models/student")
        (run_dir / "models/student/old").write_bytes(b"old")
    made = run_dir / "models/.made.tmp"
    make_folder(made / "deep")
    (made / "deep/weights").write_bytes(b"new")
    (made / "config.json").write_bytes(b"{}")
    replace_folder(made, run_dir / "models/student")
    assert {p.name for p in (run_dir / "models").iterdir()} == {"student"}
    assert not (run_dir / "models/student/old").exists()
    synced = {p: c for p, c in ended(run_dir)[1].synced().items() if "/." not in p}
    assert synced == {"models/student/deep/weights": b"new", "models/student/config.json": b"{}"}


def test_a_file_in_the_place_of_a_folder_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "final").write_text("in the way")
    with pytest.raises(NotADirectoryError, match="final"):
        replace_folder(tmp_path / "made", tmp_path / "final")
    assert (tmp_path / "final").read_text() == "in the way"


def test_answers_are_on_disk_after_a_flush(run_dir: Path) -> None:
    storage = Storage(str(run_dir))
    journal = Journal(storage, "ask", "unit")
    for text in ("one", "two"):
        journal.append(text, "row", "model", Response(text, "stop", 1, 1))
    journal.flush()
    flushed = Journal(storage, "ask", "unit").stored
    journal.append("three", "row", "model", Response("three", "stop", 1, 1))
    os.sync()  # which is no sync of ours
    (path, content), *others = ended(run_dir)[1].synced().items()
    storage.write_bytes(path, content)
    assert Journal(storage, "ask", "unit").stored == flushed
    assert set(flushed) == {"one", "two"} and not others
    journal.close()
