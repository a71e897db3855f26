"""What the first bytes of a file give away: it may not be what its name says."""

from __future__ import annotations

import codecs

from ray_pipeline.errors import UserError

_SIGNATURES = {
    b"\x1f\x8b": ("gzip data", "add .gz to its name, or decompress it"),
    b"BZh": ("bzip2 data", "add .bz2 to its name, or decompress it"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "add .zst to its name, or decompress it"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"PK\x03\x04": ("a ZIP file or a spreadsheet", "unpack it, or save it as CSV"),
    codecs.BOM_UTF16_LE: ("UTF-16 text", "set source.encoding: utf-16"),
    codecs.BOM_UTF16_BE: ("UTF-16 text", "set source.encoding: utf-16"),
}


def check_text(head: bytes, expected: str, uri: str) -> None:
    """Refuse a file that is empty or does not begin as text.

    Args:
        head: its first bytes.
        expected: ``CSV`` or ``JSON lines``, for the message.
        uri: the file, for the message.

    Raises:
        UserError: with what was found and the mend.
    """
    if not head.strip():
        raise UserError(
            f"source {uri}: expected {expected}, found an empty file: remove it or write it again"
        )
    for signature, (found, mend) in _SIGNATURES.items():
        if head.startswith(signature):
            raise UserError(f"source {uri}: expected {expected}, found {found}: {mend}")
    if _is_binary(head):
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
    # A cell may hold a zero byte. The first line, of names or of JSON, does not.
    start = head.lstrip(b"\r\n")
    many = len(start) > 1000 and start.count(0) > len(start) / 10
    return b"\0" in start.partition(b"\n")[0] or many


def check_parquet(head: bytes, uri: str) -> None:
    """Refuse a file that does not begin as Parquet does. Raises UserError."""
    if not head:
        raise UserError(
            f"source {uri}: expected Parquet, found an empty file: remove it or write it again"
        )
    if not head.startswith(b"PAR1"):
        raise UserError(
            f"source {uri}: expected Parquet as its name says, found something that begins with "
            f"{head[:16]!r}: name it by what it is (.csv, .jsonl), or write it again"
        )
