"""The journal: what came of every request of a unit, stored before it is used.

Each attempt at a unit appends to a file of its own, so nothing has to be locked. A unit that starts
again reads these files first and requests only what is missing. Of several answers to one request,
that of the attempt with the highest number counts, and the last one of that attempt: clocks decide
nothing. `journal_lines` has the format of the files, and what becomes of damaged lines.

On object storage, where files cannot be appended to, an attempt writes a new numbered file every
few seconds: a killed worker loses at most the responses of the last `FLUSH_SECONDS`. On a local
disk files are synced as often: a power loss takes no more than that.

A line that cannot be written stays in memory, and is written before the next one or at the end;
`Journal.unwritten` counts what was lost in spite of that.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ray_pipeline.core.durable_files import make_folder, sync_folder
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.thinking import split_thinking
from ray_pipeline.rundir.account import LlmUsage
from ray_pipeline.rundir.journal_lines import (
    Damage,
    attempt_name,
    attempt_number,
    encode,
    journal_files,
    read_journal,
)
from ray_pipeline.rundir.layout import RESPONSES, responses_folder

#: Seconds between two flushes: writes of collected responses to object storage, syncs of local
#: files.
FLUSH_SECONDS = 2.0
#: Folders of responses that are read at the same time.
_THREADS = 16


@dataclass
class Response:
    """A model's answer as it arrived, before it was parsed or checked."""

    text: str
    #: ``stop``, ``length``, ``content_filter``, or another value that the server sends.
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    #: Part of `prompt_tokens` that the server took from its prompt cache.
    cached_prompt_tokens: int = 0
    #: Number of HTTP tries; 1 when the first was answered.
    attempts: int = 1
    #: Seconds from the first try to the answer.
    seconds: float = 0.0
    #: Dollars at the configured prices; set by the caller.
    cost_usd: float = 0.0
    #: Characters of the reply that no text can hold, such as half of a surrogate pair, and that
    #: became U+FFFD.
    replaced_characters: int = 0
    #: The model's thinking where it arrived apart from `text`; `text` may hold more of it.
    thinking: str | None = None
    #: Part of `completion_tokens` that the model spent on thinking.
    reasoning_tokens: int = 0
    #: Tokens and dollars that earlier tries without a reply may have cost at most.
    lost_tokens: int = 0
    lost_usd: float = 0.0

    @property
    def is_cut(self) -> bool:
        """Whether it ended at the limit of tokens."""
        return self.finish_reason == "length"

    def apart(self) -> Response:
        """A copy with the thinking that `text` holds moved to `thinking`."""
        # A server that sends the thinking apart has removed the closing tag as well.
        thinking, answer = split_thinking(self.text, closing_only=not self.thinking)
        thoughts = "\n\n".join(filter(None, (self.thinking, thinking)))
        return replace(self, text=answer, thinking=thoughts or None)


_RESPONSE_FIELDS = tuple(Response.__dataclass_fields__)


@dataclass(frozen=True)
class NoAnswer:
    """How a request ended that got no answer."""

    #: The error's code, such as ``server_error``; ``stopped`` where the run did not wait for it.
    code: str
    #: Number of HTTP tries.
    attempts: int = 1
    #: The body of an unusable reply, as received.
    raw: str | None = None
    #: Tokens and dollars that tries without a reply may have cost at most.
    lost_tokens: int = 0
    lost_usd: float = 0.0


@dataclass(frozen=True)
class Unwritten:
    """Answers that arrived and could not be stored."""

    answers: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Unwritten) -> Unwritten:
        return Unwritten(self.answers + other.answers, self.cost_usd + other.cost_usd)

    def __str__(self) -> str:
        answers = "1 answer" if self.answers == 1 else f"{self.answers} answers"
        cost = f" (${self.cost_usd:.2g})" if self.cost_usd else ""
        return f"{answers} that had arrived{cost} could not be stored"


_NO_ANSWER = Unwritten()


class Journal:
    """The responses of one unit at one stage, from earlier attempts and from this one.

    Attributes:
        unit_id: the unit.
        stored: responses of earlier attempts by request key.
        rejected: keys whose stored answers an earlier attempt judged unusable.
        recorded: the requests of all attempts.
        damages: the lines of earlier attempts that cannot be read.
    """

    def __init__(self, storage: Storage, stage: str, unit_id: str) -> None:
        self._storage = storage
        self._folder = responses_folder(stage, unit_id)
        self._file: int | None = None
        #: Lines to write, the first of them perhaps only the rest of one; and the answers in them.
        self._pending: list[tuple[bytes, Unwritten]] = []
        self._files_written = 0
        #: Whether all that was written to the local file survives a power loss.
        self._is_synced = True
        self._lock = threading.Lock()
        #: Held by a flush while it syncs the file or sends lines to object storage: closing waits
        #: for it. Lines that could not be sent come back to `_pending`.
        self._flushing = threading.Lock()
        self.unit_id = unit_id
        self.stored: dict[str, Response] = {}
        #: Keys of responses that a version stored whose keys left out the requests' options.
        self.keyed_without_options: set[str] = set()
        self.rejected: set[str] = set()
        self.recorded = LlmUsage()
        self.damages: list[Damage] = []
        for record in read_records(storage, self._folder, self.damages):
            _count(self.recorded, record)
            if "rejected" in record:
                self.rejected.add(record["rejected"])
            elif "text" in record:
                self.stored[record["key"]] = _response(record)
                # That version's records had no such field.
                if "reasoning_tokens" not in record:
                    self.keyed_without_options.add(record["key"])
                self.rejected.discard(record["key"])
        self.recorded.damaged = len(self.damages)

    @cached_property
    def _attempt(self) -> str:
        """The name of this attempt's file: its number is chosen when it has something to write."""
        earlier = journal_files(self._storage, self._folder)
        number = 1 + max(map(attempt_number, earlier), default=0)
        return attempt_name(number, uuid.uuid4().hex[:8])

    def append(self, key: str, row_id: str, model: str, response: Response) -> None:
        """Store a response.

        On a local disk it survives the death of this process when this returns, and a power loss
        after the next `flush`; on object storage it survives either after the next `flush`.

        Raises:
            RunError: it cannot be written. It is kept in memory, see the module's description.
        """
        record = {"key": key, "row_id": row_id, "model": model, "at": time.time()}
        self._write(record | asdict(response), Unwritten(1, response.cost_usd))

    def append_no_answer(self, key: str, row_id: str, model: str, ended: NoAnswer) -> None:
        """Store that a request got no answer, with the reply that could not be parsed, if any.

        It may have been billed, so it is part of the account. It is never reused.

        Raises:
            RunError: as `append`.
        """
        record = {"key": key, "row_id": row_id, "model": model, "at": time.time()}
        record |= {"no_answer": ended.code, "attempts": ended.attempts}
        record |= {"lost_tokens": ended.lost_tokens, "lost_usd": ended.lost_usd}
        if ended.raw is not None:
            record["malformed"] = ended.raw
        self._write(record)

    def reject(self, key: str) -> None:
        """Record that an answer was judged unusable, so that a retry requests a new one.

        Raises:
            RunError: as `append`.
        """
        if key not in self.rejected:
            self.rejected.add(key)
            self._write({"rejected": key, "at": time.time()})

    def _write(self, record: dict[str, Any], answer: Unwritten = _NO_ANSWER) -> None:
        line = encode(record)
        _count(self.recorded, record)
        with self._lock:
            self._pending.append((line, answer))
            if self._storage.is_local:
                self._append_pending()

    def _append_pending(self) -> None:
        """Append all pending lines to the local file; what cannot be written stays pending."""
        try:
            if self._pending and self._file is None:
                self._file = self._open()
            while self._pending:
                assert self._file is not None
                line, answer = self._pending[0]
                self._is_synced = False
                # A full disk may take a part of a line. The rest follows it when there is room.
                if rest := line[os.write(self._file, line) :]:
                    self._pending[0] = rest, answer
                else:
                    del self._pending[0]
        except OSError as error:
            raise RunError(f"cannot write {self._file_uri()}: {error}") from error

    def _open(self) -> int:
        path = self._storage.local_path(f"{self._folder}/{self._attempt}.jsonl")
        make_folder(path.parent)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sync_folder(path.parent)
        return file

    def _file_uri(self) -> str:
        return self._storage.uri(f"{self._folder}/{self._attempt}.jsonl")

    def flush(self) -> None:
        """Write what is pending, and let all that was written survive a power loss.

        Pending are the responses collected for object storage, or left by a failure.

        Raises:
            RunError: it cannot be written; it stays pending.
        """
        with self._flushing:
            if self._storage.is_local:
                self._append_and_sync()
            else:
                self._send_pending()

    def _send_pending(self) -> None:
        """Write all pending lines to a new object; what cannot be written becomes pending again."""
        with self._lock:
            lines, self._pending = self._pending, []
            number = self._files_written
            self._files_written += bool(lines)
        if not lines:
            return
        path = f"{self._folder}/{self._attempt}-{number:04d}.jsonl"
        try:
            self._storage.write_bytes(path, b"".join(line for line, _ in lines))
        except BaseException:
            with self._lock:
                self._pending = lines + self._pending
            raise

    def _append_and_sync(self) -> None:
        with self._lock:
            self._append_pending()
            if self._is_synced or self._file is None:
                return
            # Of its own, so that responses can be appended meanwhile.
            file = os.dup(self._file)
            self._is_synced = True
        try:
            os.fsync(file)
        except OSError as error:
            self._is_synced = False
            raise RunError(f"cannot write {self._file_uri()}: {error}") from error
        finally:
            os.close(file)

    @property
    def unwritten(self) -> Unwritten:
        """The answers that are not on storage; once the journal is closed, they are lost."""
        with self._lock:
            return sum((answer for _, answer in self._pending), Unwritten())

    def close(self) -> None:
        """Flush and close.

        Raises:
            RunError: something cannot be written; `unwritten` says what was lost.
        """
        try:
            self.flush()
        finally:
            with self._lock:
                file, self._file = self._file, None
            if file is not None:
                os.close(file)


def read_records(
    storage: Storage, folder: str, damages: list[Damage] | None = None
) -> Iterator[dict[str, Any]]:
    """All records under a folder of responses, oldest attempt first, without incomplete lines.

    Args:
        storage: the run directory.
        folder: of the responses of a unit, of a stage or of the run.
        damages: gets the lines that cannot be read.
    """
    for path in journal_files(storage, folder):
        records, damaged = read_journal(storage, path)
        if damages is not None:
            damages += damaged
        yield from records


def _count(usage: LlmUsage, record: dict[str, Any]) -> None:
    """Add the requests, tokens and dollars of one record of a journal, in place."""
    if "rejected" in record:
        return
    usage.requests += 1
    usage.retries += record.get("attempts", 1) - 1
    usage.prompt_tokens += record.get("prompt_tokens", 0)
    usage.completion_tokens += record.get("completion_tokens", 0)
    usage.cached_prompt_tokens += record.get("cached_prompt_tokens", 0)
    usage.cost_usd += record.get("cost_usd", 0.0)
    usage.unanswered += "text" not in record
    usage.lost_tokens += record.get("lost_tokens", 0)
    usage.lost_usd += record.get("lost_usd", 0.0)
    usage.reasoning_tokens += record.get("reasoning_tokens", 0)
    usage.cut += record.get("finish_reason") == "length"


def recorded(storage: Storage, folder: str) -> LlmUsage:
    """All requests under a folder of responses, counted as `LlmUsage.requests`.

    Raises:
        RunError: a file cannot be read.
    """
    return _recorded(storage, folder)[0]


def _recorded(storage: Storage, folder: str) -> tuple[LlmUsage, list[Damage]]:
    usage, damages = LlmUsage(), list[Damage]()
    for record in read_records(storage, folder, damages):
        _count(usage, record)
    usage.damaged = len(damages)
    return usage, damages


def recorded_units(
    storage: Storage, stage: str, unit_ids: Iterable[str], damages: list[Damage] | None = None
) -> dict[str, LlmUsage]:
    """All requests of a stage about some units; units without a request are missing.

    Args:
        storage: the run directory.
        stage: the stage.
        unit_ids: the units.
        damages: gets the lines that cannot be read.
    """
    folders = set(storage.folders(f"{RESPONSES}/{stage}"))
    wanted = [unit_id for unit_id in unit_ids if unit_id in folders]
    with ThreadPoolExecutor(_THREADS) as threads:
        read = threads.map(lambda unit: _recorded(storage, responses_folder(stage, unit)), wanted)
        usages = {}
        for unit_id, (usage, damaged) in zip(wanted, read, strict=True):
            if damages is not None:
                damages += damaged
            if usage.requests or usage.damaged:
                usages[unit_id] = usage
    return usages


def spent(storage: Storage) -> tuple[float, int]:
    """Dollars and tokens of all requests in a run directory, used or not.

    What tries without a reply may have cost counts as spent.
    """
    usage = recorded(storage, RESPONSES)
    tokens = usage.prompt_tokens + usage.completion_tokens + usage.lost_tokens
    return usage.cost_usd + usage.lost_usd, tokens


def _response(record: dict[str, Any]) -> Response:
    return Response(**{name: record[name] for name in _RESPONSE_FIELDS if name in record})
