"""Which names of a configuration can be the names of files, on every system and in every bucket."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

#: Bytes of a name: most file systems allow 255, and a file has a suffix, and a longer name while
#: it is written.
NAME_BYTES = 200
#: Separators of folders, and what Windows and some tools do not take; a run may be copied there.
_MARKS = re.compile(r'[/\\:*?"<>|]')
#: Devices of Windows, whatever the suffix.
_DEVICES = re.compile(r"(?:CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³])(?:\..*)?", re.IGNORECASE)
#: Control, format (bidirectional marks, zero-width characters), surrogate, line and paragraph.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def name_fault(name: str) -> str | None:
    """Why a name cannot be that of a file, and what to write instead; None: it can."""
    if not name.strip():
        return "it is empty: give a name"
    if (mark := _MARKS.search(name)) is not None:
        return f"it has a {mark[0]!r}: it is the name of a file, not a path; use another character"
    if unseen := [char for char in name if unicodedata.category(char) in _UNSEEN]:
        return f"it has the invisible character U+{ord(unseen[0]):04X}: leave it out"
    if name[0] in ". " or name[-1] in ". ":
        return "it begins or ends with a dot or a blank: leave that out"
    if _DEVICES.fullmatch(name):
        return "it is the name of a device on Windows: take another"
    if (length := len(name.encode())) > NAME_BYTES:
        return (
            f"it has {length} bytes, and the name of a file has room for {NAME_BYTES}: shorten it"
        )
    return None


def check_name(name: str) -> str:
    """The name, for validators of a configuration.

    Raises:
        ValueError: it cannot be the name of a file; the message says why, and how to fix it.
    """
    if (fault := name_fault(name)) is not None:
        raise ValueError(f"{shown(name)} cannot be the name of a file: {fault}")
    return name


def shown(name: str) -> str:
    """A name for a message: in quotes, on one line, the middle of a long one left out."""
    text = ascii(name) if _has_unseen(name) else repr(name)
    return text if len(text) <= 80 else f"{text[:50]}…{text[-20:]}"


def _has_unseen(name: str) -> bool:
    """Whether a name has characters that cannot be seen, or that rearrange their line."""
    return any(unicodedata.category(char) in _UNSEEN for char in name)


def is_file(path: Path) -> bool:
    """Whether there is a file, also for a path that no file can have, such as one too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, also for a path that none can have."""
    try:
        return path.is_dir()
    except OSError:
        return False


def same_file(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are one file where case, or the way to compose é, do not count."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None
