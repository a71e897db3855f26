"""The journal: responses survive, torn lines do not hurt, rejected answers are remembered."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.responses import Journal, Response, spent

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
    Journal(storage, "ask", "unit").append_malformed("key", "row", "model", "<html>")
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
