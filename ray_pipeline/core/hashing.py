"""Fingerprints: hashes of what a stage's result depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson


def fingerprint(parts: Any) -> str:
    """SHA-256 over the canonical JSON of ``parts`` (sorted keys), 32 hex digits.

    Raises:
        TypeError: something in ``parts`` has no canonical form (a set, an object). Its text could
            differ from run to run, and the fingerprint with it.
    """
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def set_digest(names: Iterable[str]) -> str:
    """One digest for a collection of names; their order does not matter."""
    return fingerprint(sorted(names))
