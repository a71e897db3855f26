"""Predicates on Arrow types: text, lists, vectors."""

from __future__ import annotations

import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists, of any length."""
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column holds lists of floating-point numbers."""
    return is_list(kind) and bool(pa.types.is_floating(kind.value_type))
