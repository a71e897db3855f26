"""Journals: damage is told and never used, the order is that of numbers, a torn end is normal."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.journal_lines import (
    Damage,
    attempt_name,
    check_journal,
    encode,
    journal_files,
    read_journal,
)
from ray_pipeline.rundir.responses import (
    Journal,
    NoAnswer,
    Response,
    read_records,
    recorded,
    spent,
)

FOLDER = "responses/ask/unit"


def answer(text: str = "yes", cost: float = 0.5) -> Response:
    return Response(text, "stop", prompt_tokens=7, completion_tokens=3, cost_usd=cost)


def make_journal(folder: Path) -> tuple[Storage, str]:
    """A journal with every kind of line: its storage and its path."""
    storage = Storage(str(folder))
    journal = Journal(storage, "ask", "unit")
    for number in range(8):
        journal.append(f"key{number}", f"row{number}", "model", answer(f"It is {number}: “ja”"))
        if number % 3 == 0:
            journal.reject(f"key{number}")
    journal.append_no_answer("key8", "row8", "model", NoAnswer("malformed", raw="<html>"))
    journal.append("key9", "row9", "model", answer("the last"))
    journal.close()
    (path,) = storage.list("responses", recursive=True)
    return storage, path


def write_line(storage: Storage, name: str, *lines: bytes) -> str:
    path = f"{FOLDER}/{name}.jsonl"
    storage.write_bytes(path, b"".join(lines))
    return path


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=8 * EXAMPLES, deadline=None)
def test_every_flipped_bit_is_told_and_costs_its_own_answer_only(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    storage, path = make_journal(tmp_path_factory.mktemp("run"))
    before = Journal(storage, "ask", "unit").stored
    data = bytearray(storage.read_bytes(path) or b"")
    data[int(place * len(data))] ^= 1 << bit
    storage.write_bytes(path, bytes(data))
    journal = Journal(storage, "ask", "unit")
    damages = check_journal(storage, path)
    assert damages and damages == journal.damages
    assert journal.recorded.damaged == recorded(storage, FOLDER).damaged == len(damages)
    assert all(damage.path == path for damage in damages)
    # What is left is what was written. The end of a line is shared by two of them.
    assert journal.stored.items() <= before.items()
    assert len(before) - len(journal.stored) <= 2
    spent(storage)


def test_what_may_become_of_a_line_is_told_with_its_number(tmp_path: Path) -> None:
    storage, path = make_journal(tmp_path)
    lines = (storage.read_bytes(path) or b"").splitlines(keepends=True)
    assert check_journal(storage, path) == []
    lines[1] = lines[1][:40] + b"\n"
    lines[3] = b"\xff\xfe garbage\n"
    lines[4] = bytes(len(lines[4]) - 1) + b"\n"
    lines[5] = lines[5][:30] + lines[5][40:]
    storage.write_bytes(path, b"".join(lines))
    assert check_journal(storage, path) == [
        Damage(path, 2, "it has no checksum: it was cut off or overwritten"),
        Damage(path, 4, "it has no checksum: it was cut off or overwritten"),
        Damage(path, 5, "zero bytes, as a power loss leaves them"),
        Damage(path, 6, "its checksum does not match"),
    ]
    assert str(check_journal(storage, path)[3]) == f"{path}, line 6: its checksum does not match"


def test_a_line_with_a_checksum_must_be_a_record(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    good = {"key": "a", "row_id": "r", "no_answer": "timeout"}
    path = write_line(storage, attempt_name(1, "x"), encode(good), encode({"other": 1}))
    records, damages = read_journal(storage, path)
    assert records == [good]
    assert damages == [Damage(path, 2, "not a record: it has the fields other")]


@pytest.mark.parametrize("length", [0, 1, -1, 40])
def test_a_torn_end_is_silent(tmp_path: Path, length: int) -> None:
    storage, path = make_journal(tmp_path)
    *lines, last = (storage.read_bytes(path) or b"").splitlines(keepends=True)
    storage.write_bytes(path, b"".join(lines) + last[:length])
    assert check_journal(storage, path) == []
    # Only the line's end is missing: all of the answer is there.
    assert ("key9" in Journal(storage, "ask", "unit").stored) == (length == -1)


@pytest.mark.parametrize("begun", [0, 40])
def test_zeros_at_the_end_are_told(tmp_path: Path, begun: int) -> None:
    storage, path = make_journal(tmp_path)
    *lines, last = (storage.read_bytes(path) or b"").splitlines(keepends=True)
    storage.write_bytes(path, b"".join(lines) + last[:begun] + bytes(len(last) - begun))
    (damage,) = check_journal(storage, path)
    assert damage.line == len(lines) + 1
    assert "key9" not in Journal(storage, "ask", "unit").stored


def old_line(**fields: object) -> bytes:
    """A line as earlier versions wrote it."""
    record = {"key": "a", "row_id": "row", "model": "m", "at": 1.0, "text": "old"}
    record |= {"finish_reason": "stop", "prompt_tokens": 7, "completion_tokens": 3}
    return orjson.dumps(record | fields, option=orjson.OPT_APPEND_NEWLINE)


def test_lines_of_earlier_versions_have_no_checksum_and_come_first(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    old = write_line(storage, "01795857353719881037-d2a1e814", old_line(), old_line(key="b"))
    journal = Journal(storage, "ask", "unit")
    assert journal.stored["a"].text == "old" and journal.damages == []
    journal.append("a", "row", "model", answer("new"))
    assert journal_files(storage, FOLDER)[0] == old
    stored = Journal(storage, "ask", "unit").stored
    assert (stored["a"].text, stored["b"].text) == ("new", "old")


@pytest.mark.parametrize(
    "line",
    [
        old_line(prompt_tokens="7"),
        old_line(text=["a list"]),
        old_line(cost_usd="much"),
        old_line(attempts=True),
        old_line(finish_reason=3),
        old_line().replace(b'"text"', b'"texu"'),
        old_line().replace(b'"key"', b'"kez"'),
        b'{"rejected": 7}\n',
        b"[]\n",
        b"17\n",
        b'"\xff"\n',
    ],
)
def test_an_old_line_that_is_no_record_is_told(tmp_path: Path, line: bytes) -> None:
    storage = Storage(str(tmp_path))
    path = write_line(storage, "01795857353719881037-d2a1e814", line, old_line(key="b"))
    journal = Journal(storage, "ask", "unit")
    assert [damage.line for damage in journal.damages] == [1]
    assert set(journal.stored) == {"b"} and spent(storage) == (0.0, 10)
    assert check_journal(storage, path) == journal.damages


def test_an_attempt_after_the_clock_went_back_is_still_the_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    hour = 3600
    for attempt, text in enumerate(("bad", "worse", "good")):
        # Each attempt is an hour before the last one.
        now = time.time() - attempt * hour
        monkeypatch.setattr(time, "time", lambda now=now: now)
        monkeypatch.setattr(time, "time_ns", lambda now=now: int(now * 1e9))
        journal = Journal(storage, "ask", "unit")
        journal.append("key", "row", "model", answer(text))
        if text != "good":
            journal.reject("key")
        journal.close()
    journal = Journal(storage, "ask", "unit")
    assert journal.stored["key"].text == "good" and journal.rejected == set()
    texts = [r["text"] for r in read_records(storage, FOLDER) if "text" in r]
    assert texts == ["bad", "worse", "good"]


def test_attempts_and_their_files_are_ordered_by_number(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    names = [
        "01795857353719881037-d2a1e814",
        "01795857353719881038-00000000-0002",
        *(f"{attempt_name(2, 'zz')}-{number:04d}" for number in (9, 9999, 10_000)),
        attempt_name(999_999, "bb"),
        attempt_name(1_000_000, "aa"),
    ]
    for name in sorted(names, key=hash):
        write_line(storage, name)
    storage.write_bytes(f"{FOLDER}/.DS_Store", b"\0\1")
    assert journal_files(storage, FOLDER) == [f"{FOLDER}/{name}.jsonl" for name in names]
