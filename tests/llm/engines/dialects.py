"""The errors of the servers that are in use, each with what it has to mean here.

``tests/cases/dialects.yaml`` is one table for the tests and for ``docs/reference/servers.md``,
which this file updates: ``python tests/llm/engines/dialects.py``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parents[2]
PAGE = TESTS.parent / "docs" / "reference" / "servers.md"

#: What a verdict does, in the words of the page.
OUTCOMES = {
    "retry": "tried again",
    "row": "the row fails",
    "key": "the key is set aside",
    "run": "the run stops",
    "key?": "the row fails, or the key is set aside",
    "run?": "the row fails, or the run stops",
}


@dataclass(frozen=True)
class ErrorReply:
    """An error as a server sends it, and what it means."""

    server: str
    situation: str
    status: int
    body: Any
    #: A key of `OUTCOMES`.
    verdict: str
    code: str
    #: Seconds that the server asks to wait.
    pause: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.server}: {self.situation}"

    @property
    def bytes(self) -> bytes:
        """The body as it is sent."""
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    @property
    def words(self) -> str:
        """Words of the server that a person has to see."""
        body = self.body[0] if isinstance(self.body, list) else self.body
        if isinstance(body, str):
            return " ".join(re.sub(r"<.*?>", " ", body).split())
        if "promptFeedback" in body:
            return str(body["promptFeedback"]["blockReason"])
        error = body.get("error", body)
        message = error if isinstance(error, str) else error.get("message")
        if isinstance(message, dict):  # a list of complaints
            return str(message["detail"][0]["msg"])
        if isinstance(message, str) and message.startswith("{"):  # JSON passed on as a text
            message = json.loads(message)["error"]["message"]
        return str(message or "")


REPLIES = [
    ErrorReply(server, **reply)
    for server, replies in yaml.safe_load((TESTS / "cases" / "dialects.yaml").read_text()).items()
    for reply in replies
]


def table() -> str:
    """The page's table: one line a reply."""
    lines = [
        "| server | what happened | status | outcome | code |",
        "| --- | --- | --- | --- | --- |",
    ]
    for reply in REPLIES:
        outcome = OUTCOMES[reply.verdict]
        if reply.pause:
            outcome += " after the pause that it asks for"
        cells = (reply.server, reply.situation, str(reply.status), outcome, f"`{reply.code}`")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page's text with the table as it has to be."""
    start = text.index("| server |")
    return text[:start] + table() + text[text.index("\n\n", start) :]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    sys.stdout.write(f"{len(REPLIES)} replies\n")
