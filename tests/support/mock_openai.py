"""A fast OpenAI-compatible server on loopback, with faults and exact counts.

    python tests/support/mock_openai.py --port 0 --latency 0.2 --p429 .02 --pcut .01 --log FILE

prints its port on the first line and serves ``POST .../chat/completions``, ``GET /stats`` and
``GET .../models`` until it is killed. Answers depend on the request's content alone, so two runs
give the same rows; faults are drawn from a seeded generator, one draw for each arrival.

It shares two cores with the client it tests, so HTTP/1.1 is read by hand on an `asyncio.Protocol`.

A marker in the last user message makes one request go wrong every time: ``[[mock:context]]``,
``[[mock:400]]``, ``[[mock:filter]]``, ``[[mock:malformed]]``, ``[[mock:empty]]``,
``[[mock:nousage]]``, ``[[mock:500]]``.

From a test: ``with MockServer(latency=0.05, p500=0.1) as server: server.base_url, server.stats()``.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import psutil

_NOUNS = ["river", "mountain", "planet", "author", "capital", "metal", "painter", "engine"]
_NOUNS += ["ocean", "theorem", "battle", "language", "composer", "island", "element", "bridge"]
_NAMES = ["Lima", "Darwin", "Saturn", "Verdi", "Oslo", "Curie", "Nile", "Homer", "Iceland"]
_NAMES += ["Turing", "Cairo", "Mozart", "Kepler", "Ghana", "Pascal", "Jupiter"]
_MARKER = re.compile(r"\[\[mock:(\w+)\]\]")
_DRAFT = re.compile(r"^Draft: (.*)$", re.MULTILINE)


# --------------------------------------------------------------------------- answers


def answer_text(body: dict[str, Any], mode: str, labels: list[str]) -> str:
    """The answer to a request, from its content alone.

    A ``json_schema`` response format is always honoured; otherwise ``mode`` decides: a made-up
    ``question``, an ``echo`` of the last message, the ``draft`` that the prompt holds, a
    ``label``, or ``json``.
    """
    content = [body["messages"], body.get("seed"), body.get("response_format")]
    digest = hashlib.sha256(orjson.dumps(content)).digest()
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return orjson.dumps(_instance(form["json_schema"]["schema"], digest, 0)).decode()
    if form.get("type") == "json_object" or mode == "json":
        return orjson.dumps({"answer": _question(digest), "score": digest[5] % 10}).decode()
    if mode == "echo":
        return str(body["messages"][-1]["content"])
    if mode == "draft":
        found = _DRAFT.search(str(body["messages"][-1]["content"]))
        return found.group(1) if found else _question(digest)
    if mode == "label":
        return labels[digest[0] % len(labels)]
    return _question(digest)


def _question(digest: bytes) -> str:
    noun, other = _NOUNS[digest[0] % 16], _NOUNS[digest[1] % 16]
    name = _NAMES[digest[2] % 16]
    number = int.from_bytes(digest[3:6])
    return f"Which {noun} of {name} is linked to the {other} numbered {number}?"


def _instance(schema: dict[str, Any], digest: bytes, depth: int) -> Any:
    """A small value that fits a JSON schema."""
    digest = hashlib.sha256(digest + bytes([depth])).digest()
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][digest[0] % len(schema["enum"])]
    for combined in ("anyOf", "oneOf"):
        if combined in schema:
            return _instance(schema[combined][0], digest, depth + 1)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        items = enumerate(schema.get("properties", {}).items())
        return {name: _instance(part, digest, depth + i + 1) for i, (name, part) in items}
    if kind == "array":
        number = max(1, schema.get("minItems", 2))
        return [_instance(schema.get("items", {}), digest, depth + i + 1) for i in range(number)]
    if kind in ("integer", "number"):
        low = schema.get("minimum", 0)
        high = schema.get("maximum", low + 10)
        return low + digest[1] % (int(high - low) + 1)
    if kind == "boolean":
        return digest[1] % 2 == 0
    return None if kind == "null" else _question(digest)


def completion(body: dict[str, Any], text: str, marker: str | None) -> dict[str, Any]:
    """The reply's JSON, with tokens counted by words."""
    words = text.split()
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 1 << 30
    finish = "stop"
    if len(words) > limit:
        text, finish = " ".join(words[:limit]), "length"
    prompt_tokens = sum(len(message["content"].split()) for message in body["messages"])
    completion_tokens = min(len(words), limit)
    reply: dict[str, Any] = {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "content_filter" if marker == "filter" else finish,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    if marker == "empty":
        reply["choices"] = []
    if marker == "nousage":
        del reply["usage"]
    return reply


# --------------------------------------------------------------------------- counts


class Book:
    """Counts, and the log of arrivals and completions."""

    def __init__(self, log: BinaryIO | None) -> None:
        self._log = log
        self._lines: list[bytes] = []
        self._born = time.time()
        self._recent: dict[str, collections.deque[float]] = {}
        self.arrivals = 0
        self.completed = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.statuses: collections.Counter[str] = collections.Counter()
        self.per_second: collections.Counter[int] = collections.Counter()
        self.per_key: collections.Counter[str] = collections.Counter()
        self.key_in_flight: collections.Counter[str] = collections.Counter()
        self.max_key_in_flight: collections.Counter[str] = collections.Counter()
        self.max_per_minute: collections.Counter[str] = collections.Counter()
        self.completions: collections.Counter[str] = collections.Counter()
        self.per_process: collections.Counter[int] = collections.Counter()

    def arrived(self, key: str, sha: str) -> None:
        now = time.time()
        self.arrivals += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.per_second[int(now - self._born)] += 1
        self.per_key[key] += 1
        self.key_in_flight[key] += 1
        self.max_key_in_flight[key] = max(self.max_key_in_flight[key], self.key_in_flight[key])
        recent = self._recent.setdefault(key, collections.deque())
        recent.append(now)
        while recent[0] <= now - 60:
            recent.popleft()
        self.max_per_minute[key] = max(self.max_per_minute[key], len(recent))
        self._write({"t": now, "event": "arrival", "key": key, "sha256": sha})

    def ended(self, key: str, sha: str, status: str, completed: bool, process: int = 0) -> None:
        self.in_flight -= 1
        self.key_in_flight[key] -= 1
        self.statuses[status] += 1
        if completed:
            self.completed += 1
            self.completions[sha] += 1
            self.per_process[process] += 1
        entry = {"t": time.time(), "event": "end", "key": key, "sha256": sha, "status": status}
        self._write({**entry, "completed": completed})

    def _write(self, entry: dict[str, Any]) -> None:
        if self._log is not None:
            self._lines.append(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        if self._log is not None and self._lines:
            self._log.write(b"".join(self._lines))
            self._log.flush()
            self._lines.clear()

    def stats(self) -> dict[str, Any]:
        return {
            "arrivals": self.arrivals,
            "completed": self.completed,
            "distinct_completed": len(self.completions),
            "repeated_completed": self.completed - len(self.completions),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "statuses": dict(self.statuses),
            "per_second": {str(second): n for second, n in sorted(self.per_second.items())},
            "per_key": dict(self.per_key),
            "max_key_in_flight": dict(self.max_key_in_flight),
            "max_per_minute": dict(self.max_per_minute),
            "completed_per_process": {str(pid): n for pid, n in self.per_process.items()},
        }


# --------------------------------------------------------------------------- HTTP


def key_label(key: str) -> str:
    """How an API key appears in the log and the counts: the start of its hash."""
    return hashlib.sha256(key.encode()).hexdigest()[:12] if key else "none"


def client_of(address: tuple[str, int]) -> int:
    """The number of the process that opened a connection; 0 where it cannot be found.

    A process that the client has just forked holds the same connection until it runs a program of
    its own, and it is the one that is found first: then its parent is the client.
    """
    for _ in range(20):
        # A process that was found may have ended by now: then the one that forked it is there.
        with contextlib.suppress(psutil.Error):
            connections = psutil.net_connections("tcp4")
            found = next((c.pid for c in connections if c.laddr == address and c.pid), None)
            while found and _holds(parent := psutil.Process(found).ppid(), address):
                found = parent
            if found:
                return found
        time.sleep(0.01)
    return 0


def _holds(process: int, address: tuple[str, int]) -> bool:
    with contextlib.suppress(psutil.Error):
        connections = psutil.Process(process).net_connections("tcp4")
        return any(connection.laddr == address for connection in connections)
    return False


class Server:
    """Decides what each request gets."""

    def __init__(self, options: argparse.Namespace, book: Book) -> None:
        self.options = options
        self.book = book
        self._faults = random.Random(options.seed)
        self._labels = options.labels.split(",")
        self._known = {key for key in options.keys.split(",") if key}
        self._without_quota = {key for key in options.quota_keys.split(",") if key}
        self._started = time.monotonic()
        self._processes: set[int] = set()

    def process_of(self, transport: asyncio.Transport) -> int:
        """The number of the client's process; 0 where they are not distinguished."""
        if not self.options.processes:
            return 0
        process = client_of(transport.get_extra_info("peername"))
        if process:
            self._processes.add(process)
        return process

    def stats(self) -> dict[str, Any]:
        """What happened so far; ``processes``: the numbers of those that have connected."""
        return {**self.book.stats(), "processes": sorted(self._processes)}

    def latency(self) -> float:
        jitter = self.options.jitter
        base: float = self.options.latency
        return base + self._faults.uniform(0, jitter) if jitter else base

    def plan(self, key: str, raw: bytes) -> tuple[str, bytes, float]:
        """Status (``cut`` for a broken reply), body and seconds until it is sent."""
        options = self.options
        draw = self._faults.random()
        if len(self._processes) < options.processes:
            return "503", _error("not all clients are here", "x"), 0.0
        if self._known and key not in self._known:
            # Some servers repeat the key in the message; ours does, so that tests can look for it.
            return "401", _error(f"Incorrect API key provided: {key}", "invalid_api_key"), 0.0
        if key in self._without_quota:
            return "429", _error("You exceeded your quota", "insufficient_quota"), 0.0
        for status, share in (("429", options.p429), ("500", options.p500), ("503", options.p503)):
            if draw < share:
                return status, _error("try again", "rate_limit" if status == "429" else "x"), 0.0
            draw -= share
        if draw < options.pcut:
            return "cut", b"", self.latency()
        draw -= options.pcut
        if draw < options.pmalformed:
            return "malformed", b'{"choices": [{"message": {"content": "half', self.latency()
        return self._answer(raw)

    def _answer(self, raw: bytes) -> tuple[str, bytes, float]:
        options = self.options
        body = orjson.loads(raw)
        if options.reject_max_tokens and "max_tokens" in body:
            text = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return "400", _error(text, "unsupported_parameter", "max_tokens"), 0.0
        if options.reject_temperature and "temperature" in body:
            text = "Unsupported value: 'temperature' does not support this value."
            return "400", _error(text, "unsupported_value", "temperature"), 0.0
        content = body["messages"][-1]["content"]
        found = _MARKER.search(content)
        marker = found.group(1) if found else None
        if marker == "context" or (
            options.context_limit and len(content.split()) > options.context_limit
        ):
            text = "This model's maximum context length is exceeded."
            return "400", _error(text, "context_length_exceeded"), 0.0
        if marker in ("400", "500"):
            return marker, _error("this request is not liked", "invalid_request"), 0.0
        if marker == "malformed":
            return "malformed", b"<html>not JSON</html>", self.latency()
        text = answer_text(body, options.answer, self._labels)
        reply = completion(body, text, marker)
        usage = reply.get("usage") or {"prompt_tokens": 0, "completion_tokens": 0}
        self.book.prompt_tokens += usage["prompt_tokens"]
        self.book.completion_tokens += usage["completion_tokens"]
        return "200", orjson.dumps(reply), self.latency()


def _error(message: str, code: str, param: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "code": code, "param": param}})


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests on it are answered one after another."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._open: tuple[str, str] | None = None  # key label and hash of the request in work
        self._process = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._process = self._server.process_of(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._open is not None:
            self._end("gone", False)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._open is None:
            self._next_request()

    def _next_request(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        lower = head.lower()
        length = 0
        at = lower.find(b"content-length:")
        if at >= 0:
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        body = self._buffer[end + 4 : end + 4 + length]
        self._buffer = self._buffer[end + 4 + length :]
        self._handle(head, lower, body)

    def _handle(self, head: bytes, lower: bytes, body: bytes) -> None:
        method, path, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if method == b"GET" and path.endswith(b"/stats"):
            self._write("200 OK", orjson.dumps(self._server.stats()))
        elif method == b"GET" and path.endswith(b"/models"):
            self._write("200 OK", b'{"object": "list", "data": [{"id": "mock"}]}')
        elif method == b"POST" and path.endswith(b"/chat/completions"):
            self._chat(head, lower, body)
        else:
            self._write("404 Not Found", _error("no such path", "not_found"))

    def _chat(self, head: bytes, lower: bytes, body: bytes) -> None:
        at = lower.find(b"authorization: bearer ")
        key = head[at + 22 :].split(b"\r\n", 1)[0].decode() if at >= 0 else ""
        label, sha = key_label(key), hashlib.sha256(body).hexdigest()
        self._open = (label, sha)
        self._server.book.arrived(label, sha)
        status, reply, seconds = self._server.plan(key, body)
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, self._reply, status, reply)
        else:
            self._reply(status, reply)

    def _reply(self, status: str, reply: bytes) -> None:
        if self._transport is None or self._transport.is_closing() or self._open is None:
            return
        if status == "cut":
            # Half of a reply, then the end of the connection: the client can't use it.
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
            self._transport.write(head + b'{"choices": [{"mess')
            self._end("cut", False)
            self._transport.close()
            return
        extra = ""
        if status in ("429", "503") and self._server.options.retry_after:
            extra = f"Retry-After: {self._server.options.retry_after:g}\r\n"
        code = "200" if status == "malformed" else status
        self._write(f"{code} X", reply, extra)
        self._end(status, status == "200")
        if self._buffer:
            self._next_request()

    def _write(self, status: str, body: bytes, extra: str = "") -> None:
        assert self._transport is not None
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"{extra}Content-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)

    def _end(self, status: str, completed: bool) -> None:
        assert self._open is not None
        (label, sha), self._open = self._open, None
        self._server.book.ended(label, sha, status, completed, self._process)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(options.log, "ab")) if options.log else None
        book = Book(log)
        server = Server(options, book)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        listening = await loop.create_server(
            lambda: Connection(server), "127.0.0.1", options.port, backlog=4096
        )
        print(listening.sockets[0].getsockname()[1], flush=True)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.05)
            book.flush()
        listening.close()
        book.flush()


def parser() -> argparse.ArgumentParser:
    """The options of the command line, and of `MockServer`."""
    result = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = result.add_argument
    add("--port", type=int, default=0)
    add("--latency", type=float, default=0.0, help="seconds before an answer")
    add("--jitter", type=float, default=0.0, help="maximum of additional seconds, drawn at random")
    add("--p429", type=float, default=0.0, help="share of arrivals that get this status")
    add("--p500", type=float, default=0.0)
    add("--p503", type=float, default=0.0)
    add("--pcut", type=float, default=0.0, help="share cut off in mid-body")
    add("--pmalformed", type=float, default=0.0, help="share that gets broken JSON")
    add("--retry-after", type=float, default=0.0, help="Retry-After of 429 and 503; 0: none")
    add("--seed", type=int, default=0)
    add("--answer", choices=["question", "echo", "draft", "json", "label"], default="question")
    add("--labels", default="yes,no", help="for --answer label")
    add("--keys", default="", help="keys that are known; others get 401; empty: all are")
    add("--quota-keys", default="", help="keys that get 429 insufficient_quota")
    add("--context-limit", type=int, default=0, help="words of the last message; more get 400")
    add("--reject-max-tokens", action="store_true", help="demand max_completion_tokens")
    add("--reject-temperature", action="store_true")
    add(
        "--processes",
        type=int,
        default=0,
        help="distinguish the clients' processes, and answer 503 until this number has connected",
    )
    add("--log", default="", help="file for one JSON line an arrival and an end")
    return result


# --------------------------------------------------------------------------- for tests


class MockServer:
    """Runs the server as a process of its own, with the options of the command line."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._log: Path | None = None
        self.port = int(options.get("port", 0))

    def __enter__(self) -> MockServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it listens."""
        if "log" not in self._options:
            handle, name = tempfile.mkstemp(suffix=".jsonl", prefix="mock-openai-")
            os.close(handle)
            self._log = Path(name)
        options = {"log": str(self._log), **self._options}
        command = [sys.executable, str(Path(__file__).resolve())]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                command.append(flag)
            elif value is not False:
                command += [flag, str(value)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """Stop it; the log stays readable until the object is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def __del__(self) -> None:
        self.stop()
        if self._log is not None:
            self._log.unlink(missing_ok=True)

    @property
    def base_url(self) -> str:
        """For ``llms.NAME.base_url``."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """The server's counts."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as reply:
            result: dict[str, Any] = json.load(reply)
            return result

    def events(self) -> list[dict[str, Any]]:
        """The log so far: arrivals and ends, in order."""
        time.sleep(0.12)  # the server writes its log twenty times a second
        path = self._log or Path(self._options["log"])
        return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    asyncio.run(serve(parser().parse_args()))
