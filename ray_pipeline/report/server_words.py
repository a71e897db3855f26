"""What servers said about the rows that failed, counted by message.

A row's reason holds the status of the reply and the server's own words. Words that differ only in
numbers and ids, such as those of a request, count as one message.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ray_pipeline.core.rows import FAILED, reason_code
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.reading import ReportReader, some_units

#: Messages that are shown, and characters of one.
_MESSAGES, _LENGTH = 20, 300
#: The detail of a failure that a server's reply caused: see `ray_pipeline.llm.engines.replies`.
_REPLY = re.compile(r"(HTTP \d{3}(?: with an error \w+)?)(?:: (.*))?", re.DOTALL)
_TRIES = re.compile(r" \(after \d+ tries\)$")
_NUMBER_OR_ID = re.compile(r"[\w-]*\d[\w-]*")


@dataclass(frozen=True)
class ServerMessage:
    """A message of a server, and the number of rows that failed with it."""

    stage: str
    #: The code of the rows' reason.
    code: str
    message: str
    rows: int


def server_messages(reader: ReportReader) -> tuple[list[ServerMessage], int]:
    """The most frequent messages, and the number of rows whose messages are not among them."""
    rows: Counter[tuple[str, str, str]] = Counter()
    for stage, reason in _reasons(reader):
        code = reason_code(reason)
        message = grouped(reason[len(code) :].removeprefix(": "))
        if message is not None:
            rows[stage, code, message] += 1
    ranked = sorted(rows.items(), key=lambda item: (-item[1], item[0]))
    shown = [ServerMessage(*key, number) for key, number in ranked[:_MESSAGES]]
    return shown, sum(number for _, number in ranked[_MESSAGES:])


def grouped(detail: str) -> str | None:
    """A failure's detail with numbers and ids as ``#``; None if no server said it."""
    found = _REPLY.fullmatch(_TRIES.sub("", detail))
    if found is None:
        return None
    status, words = found.groups()
    words = shortened(_NUMBER_OR_ID.sub("#", plain(words or "")), _LENGTH)
    return f"{status}: {words}" if words else status


def _reasons(reader: ReportReader) -> Iterator[tuple[str, str]]:
    """Stage and reason of the rows that a language model's engine failed."""
    for segment in reader.segments:
        for unit, info in reader.part_infos(segment, some_units(reader)):
            codes = (code for account in info.accounts for code in account.reasons)
            if not any(code.startswith("llm:") for code in codes):
                continue
            table = reader.columns(segment, unit, ["stage", "status", "reason"])
            for row in table.to_pylist() if table is not None else ():
                if row["status"] == FAILED and str(row["reason"]).startswith("llm:"):
                    yield str(row["stage"]), row["reason"]
