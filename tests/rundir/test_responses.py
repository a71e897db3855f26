"""The journal: responses survive, torn lines do not hurt, rejected answers are remembered."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.responses import Journal, NoAnswer, Response, Unwritten, recorded, spent

ANSWER = Response("yes", "stop", prompt_tokens=7, completion_tokens=3, attempts=2, cost_usd=0.5)


def test_a_response_is_on_storage_before_append_returns(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    Journal(storage, "ask", "unit").append("key", "row", "model", ANSWER)
    # Neither flushed nor closed: as after a kill.
    assert Journal(storage, "ask", "unit").stored == {"key": ANSWER}
    assert Journal(storage, "ask", "other").stored == {}
    assert spent(storage) == (0.5, 10)


def test_each_attempt_has_a_segment_of_its_own(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    first, second = Journal(storage, "ask", "unit"), Journal(storage, "ask", "unit")
    first.append("a", "row", "model", ANSWER)
    second.append("b", "row", "model", ANSWER)
    assert set(Journal(storage, "ask", "unit").stored) == {"a", "b"}
    assert len(list(storage.list("responses", recursive=True))) == 2


def test_a_rejected_answer_is_known_until_a_newer_one_comes(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    journal = Journal(storage, "ask", "unit")
    journal.append("key", "row", "model", ANSWER)
    journal.reject("key")
    assert Journal(storage, "ask", "unit").rejected == {"key"}
    Journal(storage, "ask", "unit").append("key", "row", "model", ANSWER)
    assert Journal(storage, "ask", "unit").rejected == set()


def test_a_malformed_reply_is_kept_and_never_reused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    ended = NoAnswer("malformed", raw="<html>")
    Journal(storage, "ask", "unit").append_no_answer("key", "row", "model", ended)
    assert Journal(storage, "ask", "unit").stored == {}
    (path,) = storage.list("responses", recursive=True)
    assert b"<html>" in (storage.read_bytes(path) or b"")


@given(cut=st.integers(min_value=0, max_value=2000), text=st.text())
def test_a_file_torn_anywhere_loses_only_what_was_torn(
    tmp_path_factory: object, cut: int, text: str
) -> None:
    folder = tmp_path_factory.mktemp("run")  # type: ignore[attr-defined]
    storage = Storage(str(folder))
    journal = Journal(storage, "ask", "unit")
    answers = {f"key{i}": Response(text, "stop", i, i) for i in range(5)}
    for key, answer in answers.items():
        journal.append(key, "row", "model", answer)
    (path,) = storage.list("responses", recursive=True)
    whole = storage.read_bytes(path) or b""
    storage.local_path(path).write_bytes(whole[:cut])
    found = Journal(storage, "ask", "unit").stored
    complete = whole[:cut].count(b"\n")
    # The last line counts when only its newline is missing.
    assert complete <= len(found) <= complete + 1
    assert found.items() <= answers.items()


class FullDisk:
    """Takes so many more bytes, for all files; then ``os.write`` fails as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, file: int, data: bytes) -> int:
        taken = data[: self.room]
        if data and not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(taken)
        return self._write(file, taken)


@pytest.mark.parametrize("room", [0, 1, 100, 450])
def test_what_a_full_disk_refuses_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    storage = Storage(str(tmp_path))
    journal = Journal(storage, "ask", "unit")
    disk = FullDisk(monkeypatch, room)
    for key in ("a", "b"):
        with contextlib.suppress(RunError):
            journal.append(key, "row", "model", ANSWER)
    assert journal.unwritten == Unwritten(2 - (room == 450), (2 - (room == 450)) * 0.5)
    # As after a kill now: a line that was cut off is not taken for an answer.
    assert len(Journal(storage, "ask", "unit").stored) == (room == 450)
    disk.room = 10_000
    journal.append("c", "row", "model", ANSWER)
    journal.close()
    assert journal.unwritten == Unwritten()
    assert Journal(storage, "ask", "unit").stored == dict.fromkeys("abc", ANSWER)


def test_a_line_that_cannot_be_written_names_the_file_and_is_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(Storage(str(tmp_path)), "ask", "unit")
    FullDisk(monkeypatch, 50)
    with pytest.raises(RunError, match=r"cannot write .*responses/ask/unit/.*No space left"):
        journal.append("a", "row", "model", ANSWER)
    with pytest.raises(RunError, match="No space left"):
        journal.close()
    assert str(journal.unwritten) == "1 answer that had arrived ($0.5) could not be stored"


def test_a_flush_that_fails_keeps_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(Storage, "is_local", False)  # as on object storage
    journal = Journal(storage, "ask", "unit")
    journal.append("a", "row", "model", ANSWER)
    (tmp_path / "responses").write_text("in the way")
    with pytest.raises(RunError):
        journal.flush()
    assert journal.unwritten.answers == 1
    (tmp_path / "responses").unlink()
    (tmp_path / "responses/ask/unit").mkdir(parents=True)
    journal.append("b", "row", "model", ANSWER)
    journal.close()
    assert set(Journal(storage, "ask", "unit").stored) == {"a", "b"}


def test_requests_without_an_answer_are_part_of_the_account(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    journal = Journal(storage, "ask", "unit")
    journal.append("a", "row", "model", ANSWER)
    lost = NoAnswer("timeout", attempts=4, lost_tokens=30, lost_usd=0.25)
    journal.append_no_answer("b", "row", "model", lost)
    journal.reject("a")
    usage = recorded(storage, "responses")
    assert usage == journal.recorded == Journal(storage, "ask", "unit").recorded
    assert (usage.requests, usage.unanswered, usage.retries) == (2, 1, 1 + 3)
    assert (usage.cost_usd, usage.lost_usd, usage.lost_tokens) == (0.5, 0.25, 30)
    # Over restarts the budget counts what may have been billed.
    assert spent(storage) == (0.75, 40)


def test_closing_waits_for_a_flush_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(Storage, "is_local", False)  # as on object storage
    sending, refused = threading.Event(), threading.Event()

    def write_bytes(_: Storage, path: str, data: bytes) -> None:
        sending.set()
        assert refused.wait(10)
        raise RunError(f"cannot write {path}: SLOW_DOWN")

    monkeypatch.setattr(Storage, "write_bytes", write_bytes)
    journal = Journal(storage, "ask", "unit")
    journal.append("a", "row", "model", ANSWER)
    with ThreadPoolExecutor() as threads:
        flush = threads.submit(journal.flush)
        assert sending.wait(10)
        close = threads.submit(journal.close)
        wait([close], timeout=0.2)
        refused.set()
        for ended in (flush, close):
            with pytest.raises(RunError, match="SLOW_DOWN"):
                ended.result(10)
    assert journal.unwritten == Unwritten(1, 0.5)
