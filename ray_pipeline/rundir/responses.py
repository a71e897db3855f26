"""The journal: every model response of a unit, stored before it is used.

Each attempt at a unit appends to a file of its own, so nothing has to be locked. A unit that starts
again reads these files first and requests only what is missing. An incomplete last line (a process
was killed while writing it) is skipped.

On object storage, where files cannot be appended to, an attempt writes a new numbered file every
few seconds: a killed worker loses at most the responses of the last `FLUSH_SECONDS`.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.thinking import split_thinking
from ray_pipeline.rundir.layout import RESPONSES, responses_folder

#: Object storage: seconds between two writes of collected responses.
FLUSH_SECONDS = 2.0


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


class Journal:
    """The responses of one unit at one stage, from earlier attempts and from this one."""

    def __init__(self, storage: Storage, stage: str, unit_id: str) -> None:
        self._storage = storage
        self._folder = responses_folder(stage, unit_id)
        self._attempt = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self._file: int | None = None
        self._pending: list[bytes] = []
        self._files_written = 0
        self._lock = threading.Lock()
        #: Responses of earlier attempts by request key.
        self.stored: dict[str, Response] = {}
        #: Keys of responses that a version stored whose keys left out the requests' options.
        self.keyed_without_options: set[str] = set()
        #: Keys whose stored answers an earlier attempt judged unusable.
        self.rejected: set[str] = set()
        for record in read_records(storage, self._folder):
            if "rejected" in record:
                self.rejected.add(record["rejected"])
            elif "text" in record:
                self.stored[record["key"]] = _response(record)
                # That version's records had no such field.
                if "reasoning_tokens" not in record:
                    self.keyed_without_options.add(record["key"])
                self.rejected.discard(record["key"])

    def append(self, key: str, row_id: str, model: str, response: Response) -> None:
        """Store a response.

        On a local disk it survives the death of this process when this returns; on object storage
        after the next `flush`.

        Raises:
            RunError: it cannot be written.
        """
        record = {"key": key, "row_id": row_id, "model": model, "at": time.time()}
        self._write(record | asdict(response))

    def append_malformed(self, key: str, row_id: str, model: str, raw: str) -> None:
        """Store a reply that could not be parsed: it may have been billed. It is never reused."""
        self._write(
            {"key": key, "row_id": row_id, "model": model, "at": time.time(), "malformed": raw}
        )

    def reject(self, key: str) -> None:
        """Record that an answer was judged unusable, so that a retry requests a new one."""
        if key not in self.rejected:
            self.rejected.add(key)
            self._write({"rejected": key, "at": time.time()})

    def _write(self, record: dict[str, Any]) -> None:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if not self._storage.is_local:
            with self._lock:
                self._pending.append(line)
            return
        try:
            if self._file is None:
                self._file = self._open()
            written = os.write(self._file, line)
        except OSError as error:
            raise RunError(f"cannot write {self._file_uri()}: {error}") from error
        if written != len(line):
            raise RunError(f"cannot write {self._file_uri()}: the disk is full")

    def _open(self) -> int:
        path = self._storage.local_path(f"{self._folder}/{self._attempt}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _file_uri(self) -> str:
        return self._storage.uri(f"{self._folder}/{self._attempt}.jsonl")

    def flush(self) -> None:
        """Write the collected responses to object storage. No-op on a local disk."""
        with self._lock:
            lines, self._pending = self._pending, []
            number = self._files_written
            self._files_written += bool(lines)
        if lines:
            path = f"{self._folder}/{self._attempt}-{number:04d}.jsonl"
            self._storage.write_bytes(path, b"".join(lines))

    def close(self, durable: bool = False) -> None:
        """Flush and close; with ``durable``, the responses also survive a power loss."""
        self.flush()
        if self._file is not None:
            file, self._file = self._file, None
            try:
                if durable:
                    os.fsync(file)
            except OSError as error:
                raise RunError(f"cannot write {self._file_uri()}: {error}") from error
            finally:
                os.close(file)


def read_records(storage: Storage, folder: str) -> Iterator[dict[str, Any]]:
    """All records under a folder of responses, oldest attempt first, without incomplete lines."""
    for path in sorted(storage.list(folder, recursive=True)):
        for line in (storage.read_bytes(path) or b"").splitlines():
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record


def spent(storage: Storage) -> tuple[float, int]:
    """Dollars and tokens of all responses in a run directory, used or not."""
    cost, tokens = 0.0, 0
    for record in read_records(storage, RESPONSES):
        cost += record.get("cost_usd", 0.0)
        tokens += record.get("prompt_tokens", 0) + record.get("completion_tokens", 0)
    return cost, tokens


def _response(record: dict[str, Any]) -> Response:
    return Response(**{name: record[name] for name in _RESPONSE_FIELDS if name in record})
