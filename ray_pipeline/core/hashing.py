"""Fingerprints: what a stage's result depends on, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson


def fingerprint(parts: Any) -> str:
    """SHA-256 over the canonical JSON of ``parts`` (sorted keys), 32 hex digits.

    Raises:
        TypeError: something in ``parts`` has no canonical form (a set, an object): better an
            error here than a fingerprint that differs from run to run.
    """
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def set_digest(names: Iterable[str]) -> str:
    """One digest for a set of names, whatever their order."""
    return fingerprint(sorted(names))
