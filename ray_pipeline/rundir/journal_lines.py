"""The lines of a journal of responses: a JSON record each, with a checksum of its bytes.

A file belongs to one attempt: ``attempt-000003-1a2b3c4d.jsonl`` is from the third attempt at its
unit, ``attempt-000003-1a2b3c4d-0007.jsonl`` is the eighth file of an attempt on object storage.
Earlier versions named files after the time (``01795857353719881037-d2a1e814.jsonl``), and their
lines have no checksum: these are read if they are records.

The end of a file that a killed process left in the middle of a line is normal. Any other line that
cannot be read, or that is not what was written, is damage. Damage never raises an error: who reads
a file is told of it, and the rows of the lost answers are asked again.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ray_pipeline.core.storage import Storage

_SUFFIX = ".jsonl"
#: Names of files. A number of 20 digits without a word before it is the time, in nanoseconds.
_NAME = re.compile(r"(?P<numbered>attempt-)?(?P<number>\d+)-(?P<id>\w+?)(?:-(?P<file>\d+))?\.jsonl")
#: The end of a line that has a checksum, of all bytes before it and the closing brace.
_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"}')
_CHECKSUM_BYTES = len(b',"crc32":"00000000"}')
#: Damaged lines that one message names.
_NAMED = 10


@dataclass(frozen=True)
class Damage:
    """A line of a journal that cannot be read or is not what was written."""

    #: The file, relative to the run directory.
    path: str
    #: Number of the line in its file, from 1.
    line: int
    #: What is wrong with it, in a few words.
    what: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.what}"


def encode(record: dict[str, Any]) -> bytes:
    """A record as a line, with its checksum and the line's end."""
    body = orjson.dumps(record)
    return b'%s,"crc32":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def attempt_name(number: int, unique: str) -> str:
    """The name, without suffix, of the file or files of an attempt.

    Args:
        number: of the attempt at the unit, from 1.
        unique: tells apart attempts at the same time, which have the same number.
    """
    return f"attempt-{number:06d}-{unique}"


def attempt_number(path: str) -> int:
    """The number of the attempt that wrote a file; 0 where it was named after the time."""
    name = _NAME.fullmatch(path.rpartition("/")[2])
    return int(name["number"]) if name and name["numbered"] else 0


def journal_files(storage: Storage, folder: str) -> list[str]:
    """The journals under a folder, the oldest attempt of a unit first.

    The order is that of the attempts' numbers. Names of earlier versions hold a time; they come
    first, because no such version continues what this one began.
    """
    paths = (path for path in storage.list(folder, recursive=True) if path.endswith(_SUFFIX))
    return sorted(paths, key=_place)


def _place(path: str) -> tuple[str, bool, int, str, int]:
    folder, _, name = path.rpartition("/")
    matched = _NAME.fullmatch(name)
    if matched is None:
        return folder, False, 0, name, 0
    is_numbered = matched["numbered"] is not None
    return folder, is_numbered, int(matched["number"]), matched["id"], int(matched["file"] or 0)


def read_journal(storage: Storage, path: str) -> tuple[list[dict[str, Any]], list[Damage]]:
    """The records of a file, in the order in which they were written, and its damaged lines.

    Raises:
        RunError: storage cannot be read.
    """
    has_checksums = attempt_number(path) > 0
    *lines, end = (storage.read_bytes(path) or b"").split(b"\n")
    records, damages = [], []
    for number, line in enumerate((*lines, end), start=1):
        is_end = number > len(lines)
        if not line or (is_end and _is_torn(line, has_checksums)):
            continue
        record, what = _decode(line, has_checksums)
        if record is None:
            damages.append(Damage(path, number, what))
        else:
            records.append(record)
    return records, damages


def check_journal(storage: Storage, path: str) -> list[Damage]:
    """The damaged lines of a file; none where all of it can be used.

    Args:
        storage: the run directory.
        path: one of `journal_files`.

    Raises:
        RunError: storage cannot be read.
    """
    return read_journal(storage, path)[1]


def damages_in_words(damages: Sequence[Damage]) -> str:
    """A sentence on damaged lines, which names the first of them."""
    named = "; ".join(map(str, damages[:_NAMED]))
    more = f"; and {len(damages) - _NAMED} more" if len(damages) > _NAMED else ""
    lines = "a stored line" if len(damages) == 1 else f"{len(damages)} stored lines"
    return f"{lines} cannot be read ({named}{more}): the answers in them are asked for again"


def _is_torn(end: bytes, has_checksums: bool) -> bool:
    """Whether the bytes after the last line's end are the beginning of a line."""
    if b"\0" in end:
        return False  # what was to be written holds none: a power loss has left it
    if has_checksums:
        return _CHECKSUM.search(end) is None
    return _decode(end, has_checksums=False)[0] is None and not _is_record(end[:-1])


def _is_record(line: bytes) -> bool:
    return _decode(line, has_checksums=False)[0] is not None


def _decode(line: bytes, has_checksums: bool) -> tuple[dict[str, Any] | None, str]:
    """The record of a line; or None, and what is wrong with it."""
    if not line.strip(b"\0"):
        return None, "zero bytes, as a power loss leaves them"
    if has_checksums:
        checksum = _CHECKSUM.fullmatch(line[-_CHECKSUM_BYTES:])
        if checksum is None:
            return None, "it has no checksum: it was cut off or overwritten"
        line = line[:-_CHECKSUM_BYTES] + b"}"
        if zlib.crc32(line) != int(checksum[1], 16):
            return None, "its checksum does not match"
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return None, f"not JSON: {error}"
    if not isinstance(record, dict):
        return None, "not a record: its JSON is no object"
    if wrong := _wrong_fields(record):
        return None, f"not a record: {wrong}"
    return record, ""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0


#: What the fields of records must hold, whichever of them are there.
_FIELDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("rejected", "key", "row_id", "model", "text", "no_answer"), _is_text),
    **dict.fromkeys(("finish_reason", "thinking", "malformed"), _is_text_or_null),
    **dict.fromkeys(
        (
            "prompt_tokens",
            "completion_tokens",
            "cached_prompt_tokens",
            "reasoning_tokens",
            "replaced_characters",
            "lost_tokens",
            "attempts",
        ),
        _is_count,
    ),
    **dict.fromkeys(("seconds", "cost_usd", "lost_usd"), _is_amount),
}
#: The fields that a record has at least: of a rejection, of an answer, of a request without one.
_KINDS = (
    frozenset({"rejected"}),
    frozenset({"key", "row_id", "text", "finish_reason", "prompt_tokens", "completion_tokens"}),
    frozenset({"key", "row_id", "no_answer"}),
    frozenset({"key", "row_id", "malformed"}),
)


def _wrong_fields(record: dict[str, Any]) -> str:
    """What is wrong with the fields of a record; empty: nothing."""
    for name, value in record.items():
        if not _FIELDS.get(name, lambda _: True)(value):
            return f"{name} is {str(value)[:40]!r}"
    if not any(kind <= record.keys() for kind in _KINDS):
        return f"it has the fields {', '.join(sorted(record))[:200]}"
    return ""
