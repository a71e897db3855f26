"""Tells by its first bytes that a file is not what its name says, or is empty."""

from __future__ import annotations

import codecs
import re

from ray_pipeline.core.config import fix
from ray_pipeline.core.errors import UserError


class EmptyFile(UserError):
    """A file has no row. Among other files of a source, it is passed over."""


def _utf16(name: str) -> tuple[str, str]:
    return "UTF-16 text", f"set {fix('source.encoding', name)}"


_TWO_HIGH = re.compile(rb"[\x80-\xff]{2}")
#: Maximum number of characters of a line in a message.
_LINE_SHOWN = 60
_GZIP = ("gzip data", "add .gz to its name, or decompress it")
_PARQUET = ("a Parquet file", "name it .parquet")
_SIGNATURES = {
    b"\x1f\x8b": _GZIP,
    b"BZh": ("bzip2 data", "add .bz2 to its name, or decompress it"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "add .zst to its name, or decompress it"),
    b"PAR1": _PARQUET,
    b"PK\x03\x04": ("a ZIP file or a spreadsheet", "unpack it, or save it as CSV"),
    codecs.BOM_UTF16_LE: _utf16("utf-16"),
    codecs.BOM_UTF16_BE: _utf16("utf-16"),
}
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
#: A markup file: how it begins, in lower case, and what it is.
_MARKUP = {b"<!doctype html": "an HTML page", b"<html": "an HTML page", b"<?xml": "an XML file"}


def not_the_data(head: bytes) -> tuple[str, str] | None:
    """What a file is that something else has put in the place of the data, and how to fix it.

    Args:
        head: its first bytes.
    """
    if head.startswith(_GIT_LFS):
        return "a pointer of Git LFS, not the data itself", "fetch the data with `git lfs pull`"
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:100].lower()
    for begin, found in _MARKUP.items():
        if start.startswith(begin):
            return found, "probably an error page was saved in place of the data: download it again"
    return None


def check_not_empty(head: bytes, expected: str, uri: str) -> None:
    """Check that a file has content.

    Raises:
        EmptyFile: it has none but white space.
    """
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        raise EmptyFile(
            f"source {uri}: expected {expected}, found an empty file: remove it or write it again"
        )


def check_text(head: bytes, expected: str, uri: str) -> None:
    """Check that a file is not empty and begins as text.

    Args:
        head: its first bytes.
        expected: name of its format.
        uri: the file, for the message.

    Raises:
        EmptyFile: it is empty.
        UserError: it is not text; the message says what was found and how to fix it.
    """
    check_not_empty(head, expected, uri)
    other = not_the_data(head) or next(
        (found for signature, found in _SIGNATURES.items() if head.startswith(signature)), None
    )
    if other is not None:
        raise UserError(f"source {uri}: expected {expected}, found {other[0]}: {other[1]}")
    if _is_binary(head):
        if (encoding := _utf16_without_mark(head)) is not None:
            raise UserError(
                f"source {uri}: expected {expected}, found binary data (bytes of zero) that is "
                f"UTF-16 text: set {fix('source.encoding', encoding)}"
            )
        raise UserError(
            f"source {uri}: expected {expected}, found binary data (bytes of zero) or UTF-16: "
            "name it by what it is, convert it, or set source.encoding"
        )
    if b"\r" in head and b"\n" not in head:
        raise UserError(
            f"source {uri}: expected {expected} with line ends, found only carriage returns "
            "(old Macintosh text): convert its line ends to \\n"
        )


def _is_binary(head: bytes) -> bool:
    # A cell may contain a zero byte. The first line, of names or of JSON, does not.
    start = head.lstrip(b"\r\n")
    many = len(start) > 1000 and start.count(0) > len(start) / 10
    return b"\0" in start.partition(b"\n")[0] or many


def _utf16_without_mark(head: bytes) -> str | None:
    """The byte order of UTF-16 text in which every second byte of the first ones is zero."""
    start = head[:64]
    for name, zeros, others in (
        ("utf-16-le", start[1::2], start[::2]),
        ("utf-16-be", start[::2], start[1::2]),
    ):
        if len(start) > 3 and not any(zeros[:-1]) and all(others):
            return name
    return None


def how_to_decode(head: bytes, line: bytes) -> str:
    """How to set the encoding of text that is not UTF-8: a sentence.

    Args:
        head: the first bytes of the file.
        line: one of its lines, by which the user can tell whether the encoding is right.
    """
    encoding = _western(head)
    if encoding is None:
        return "Set source.encoding to that of the file (cp1252, latin-1, shift_jis, gb18030, ...)"
    shown = line.decode(encoding, "replace").strip()
    shown = shown if len(shown) <= _LINE_SHOWN else shown[:_LINE_SHOWN] + "…"
    return (
        f"In {encoding} it is {shown!r}: if that is right, set {fix('source.encoding', encoding)}"
    )


def _western(head: bytes) -> str | None:
    """The encoding of Western European text; None if it is not such text."""
    high = [byte for byte in head if byte >= 0x80]
    if len(_TWO_HIGH.findall(head)) > len(high) / 4:
        return None  # its letters stand among ASCII ones, rather than side by side
    if any(byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) for byte in high):
        return None
    # The letters are the same in both, but cp1252 also has quotes and dashes, below 0xa0.
    return "cp1252" if any(byte < 0xA0 for byte in high) else "latin-1"
