"""Mistral's instruction tags as text, exactly as mistral-common tokenises a chat of one turn.

The versions differ in spaces, and in whether the tags are control tokens:

| version | text | models |
| --- | --- | --- |
| v1 | ``<s> [INST] user [/INST] answer</s>``, tags are plain text | Mistral 7B v0.1, v0.2 |
| v2 | ``<s>[INST] user[/INST] answer</s>`` | Mistral Small 2402 |
| v3 | as v2 | Mistral 7B v0.3 |
| v3-tekken | ``<s>[INST]user[/INST]answer</s>`` | Mistral Nemo |
| v7 | as v3, with a system prompt of its own | Mistral Large 2411 |

The tests compare the token ids with those of mistral-common 1.13.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Version = Literal["v1", "v2", "v3", "v3-tekken", "v7"]
VERSIONS: tuple[Version, ...] = get_args(Version)

BEGIN, END = "<s>", "</s>"
OPEN, CLOSE = "[INST]", "[/INST]"
SYSTEM_OPEN, SYSTEM_CLOSE = "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"


@dataclass(frozen=True)
class Piece:
    """A part of a text: a control token, or plain text to be tokenised by itself.

    Attributes:
        text: without the space that the tokenizer puts before plain text.
        is_control: whether it is one token of the vocabulary.
    """

    text: str
    is_control: bool = False


def pieces(user: str, answer: str, version: Version, system: str | None = None) -> list[Piece]:
    """The parts of a chat of one turn. What spells a tag in a message is plain text.

    Args:
        user: the user's message.
        answer: the assistant's.
        version: of the format.
        system: the system message; before v7 it stands before the user's, after two line breaks.
    """
    begin, end = Piece(BEGIN, True), Piece(END, True)
    if version != "v1":
        answer = answer.rstrip(" ")  # as mistral-common does from v2 on
    if system is not None and version != "v7":
        user, system = f"{system}\n\n{user}", None
    if version == "v1":
        # All of the instruction is plain text here, so a tag in a message is one, too.
        return [begin, Piece(f"{OPEN} {user} {CLOSE}"), Piece(answer), end]
    before = []
    if system is not None:
        before = [Piece(SYSTEM_OPEN, True), Piece(system), Piece(SYSTEM_CLOSE, True)]
    turn = [Piece(OPEN, True), Piece(user), Piece(CLOSE, True), Piece(answer)]
    return [begin, *before, *turn, end]


def text(user: str, answer: str, version: Version, system: str | None = None) -> str:
    """The chat as one text, with its tags; arguments as of `pieces`.

    Whoever tokenises this text takes tags that a message spells for tags: `pieces`, or the
    messages, have them apart.
    """
    space = "" if version == "v3-tekken" else " "
    parts = pieces(user, answer, version, system)
    return "".join(part.text if part.is_control else f"{space}{part.text}" for part in parts)


def spells_tag(message: str) -> bool:
    """Whether a message spells a control token of the format."""
    tags = (BEGIN, END, OPEN, CLOSE, SYSTEM_OPEN, SYSTEM_CLOSE)
    return any(tag in message for tag in tags)
