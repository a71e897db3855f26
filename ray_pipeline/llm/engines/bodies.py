"""Reads the JSON of a reply's body, however the server has encoded it.

Nothing here raises: a body that is no JSON is None, and what it says as text is in `words`.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from typing import Any

import orjson

#: Bytes of a compressed body after unpacking; more is not an answer.
_MAX_UNPACKED = 64 << 20
#: Characters of a body or message that are looked at for its words.
_MAX_WORDS = 20_000
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def read_json(body: bytes, charset: str | None = None) -> tuple[Any, int]:
    """The JSON value of a body, and how many of its characters had to be replaced by U+FFFD.

    Beyond strict UTF-8 JSON, it reads what servers are known to send: a byte order mark, other
    charsets, NaN, control characters in strings, half of a surrogate pair, gzip that no header
    names, and a stream of events (SSE), which becomes one completion.

    Args:
        body: the body, after HTTP's own encodings are undone.
        charset: the charset that the Content-Type names, if any.

    Returns: the value and the count; ``(None, 0)`` where the body is not JSON.
    """
    try:
        return orjson.loads(body), 0
    except orjson.JSONDecodeError:
        pass
    text, replaced = _decode(body, charset)
    try:
        if _is_stream(text):
            return _completion(text), replaced
        value, lone = _lenient(text)
    except (ValueError, RecursionError):
        return None, 0
    return value, replaced + lone


def decode(body: bytes, charset: str | None = None) -> str:
    """The body as text; bytes that are not in its charset become U+FFFD."""
    return _decode(body, charset)[0]


def words(body: bytes, charset: str | None = None) -> str:
    """What a body that is not JSON says to a person: its text without markup, in one line."""
    text = decode(body[: 4 * _MAX_WORDS], charset)[:_MAX_WORDS]
    if "<" in text:
        text = re.sub(r"(?is)<(script|style)\b[^>]*>.*?(</\1>|\Z)", " ", text)
        text = html.unescape(re.sub(r"<[^<>]*>", " ", text))
    return in_words(text)


def in_words(text: str) -> str:
    """A text in one line, of bounded length, that any file can hold."""
    return " ".join(_LONE_SURROGATE.sub("\ufffd", text[:_MAX_WORDS]).replace("\0", " ").split())


def as_text(value: Any) -> str:
    """A JSON value as text: a string as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        return f"({type(value).__name__})"


def _decode(body: bytes, charset: str | None) -> tuple[str, int]:
    if body[:2] == b"\x1f\x8b":
        body = _unpacked(body)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if body.startswith(mark):
            text = body.decode(encoding, "replace")
            return text, text.count("\ufffd")
    # JSON is UTF-8, also where a proxy has labelled it otherwise.
    for name in ("utf-8", charset or "utf-8"):
        try:
            return body.decode(name), 0
        except (LookupError, ValueError):  # ValueError: also a name with a NUL
            continue
    text = body.decode("utf-8", "replace")
    return text, text.count("\ufffd")


def _unpacked(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(body, _MAX_UNPACKED)
    except zlib.error:
        return body


def _lenient(text: str) -> tuple[Any, int]:
    """The standard library's JSON: it takes NaN, control characters and lone surrogates.

    Raises:
        ValueError, RecursionError: the text is not JSON, or nested too deeply.
    """
    value = json.loads(text, strict=False, parse_int=_integer)
    # Written out, a half character stands alone, wherever in the value it is.
    written, lone = _LONE_SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
    return (json.loads(written, parse_int=_integer), lone) if lone else (value, 0)


def _integer(digits: str) -> int | float:
    # Python refuses to read integers of thousands of digits; no count of ours has twenty.
    return int(digits) if len(digits) < 20 else float(digits)


# --------------------------------------------------------------------------- streams


def _is_stream(text: str) -> bool:
    return text.lstrip().startswith(("data:", "event:", "id:", ":"))


def _completion(text: str) -> Any:
    """One completion out of a stream's chunks, as if it had not been streamed.

    Raises:
        ValueError: the stream holds no JSON, or it ends before its answer does.
    """
    chunks, done = _events(text)
    if not chunks:
        raise ValueError("no chunk")
    message: dict[str, str] = {}
    finish_reason: Any = None
    whole: dict[str, Any] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict):
            continue
        whole |= {key: value for key, value in chunk.items() if value is not None}
        choice = next(iter(chunk.get("choices") or ()), None) if _has_list(chunk) else None
        if not isinstance(choice, dict):
            continue
        finish_reason = choice.get("finish_reason") or finish_reason
        delta = choice.get("delta") or choice.get("message")
        for field, part in delta.items() if isinstance(delta, dict) else ():
            if isinstance(part, str):
                message[field] = part if field == "role" else message.get(field, "") + part
    if finish_reason is None and not done and "error" not in whole:
        raise ValueError("the stream was cut")
    if message or "error" not in whole:
        whole["choices"] = [{"message": message, "finish_reason": finish_reason}]
    return whole


def _has_list(chunk: dict[str, Any]) -> bool:
    return isinstance(chunk.get("choices"), list)


def _events(text: str) -> tuple[list[Any], bool]:
    """The chunks of a stream, and whether its end mark came."""
    chunks: list[Any] = []
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return chunks, True
        chunks.append(_lenient(data)[0])
    return chunks, False
