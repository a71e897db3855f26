"""Columns of any Arrow type, as files from anywhere may have them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from ray_pipeline.core.arrow_types import why_not_held

_INT64 = st.integers(-(2**63), 2**63 - 1)
#: Milliseconds of 64 bits reach 292 million years; seconds beyond that are refused when read.
_SECONDS = st.integers(-(2**63) // 1000 + 1, (2**63 - 1) // 1000)


def _of_ints(kind: pa.DataType, bits: int, low: int, high: int) -> Any:
    storage = pa.int32() if bits == 32 else pa.int64()
    return (
        st.just(kind),
        lambda values: pa.array(values, storage).view(kind),
        st.integers(low, high),
    )


def _plain(kind: pa.DataType, values: st.SearchStrategy[Any]) -> Any:
    return st.just(kind), lambda chosen: pa.array(chosen, kind), values


def _floats(kind: pa.DataType, width: int) -> Any:
    return _plain(kind, st.floats(width=width))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_BYTES = st.binary(max_size=5)


def _decimals(kind: Any) -> Any:
    most = 10**kind.precision - 1
    return _plain(
        kind,
        st.integers(-most, most).map(
            lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -kind.scale))
        ),
    )


def scalars() -> list[tuple[Any, Any, Any]]:
    """(type, from values to an array, values) of types without children."""
    made = [_plain(pa.null(), st.none()), _plain(pa.bool_(), st.booleans())]
    for bits in (8, 16, 32, 64):
        signed, unsigned = getattr(pa, f"int{bits}")(), getattr(pa, f"uint{bits}")()
        made.append(_plain(signed, st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)))
        made.append(_plain(unsigned, st.integers(0, 2**bits - 1)))
    made += [_floats(pa.float16(), 16), _floats(pa.float32(), 32), _floats(pa.float64(), 64)]
    made += [_plain(kind, _TEXT) for kind in (pa.string(), pa.large_string(), pa.string_view())]
    made += [_plain(kind, _BYTES) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())]
    made.append(_plain(pa.binary(3), st.binary(min_size=3, max_size=3)))
    for kind in (
        pa.decimal32(7, 2),
        pa.decimal64(18, 0),
        pa.decimal128(38, 10),
        pa.decimal256(76, 38),
    ):
        made.append(_decimals(kind))
    made.append(_of_ints(pa.date32(), 32, -(2**31), 2**31 - 1))
    made.append((
        st.just(pa.date64()),
        lambda values: pa.array(
            [None if v is None else v * 86_400_000 for v in values], pa.int64()
        ).view(pa.date64()),
        st.integers(-(10**6), 10**6),
    ))  # fmt: skip
    for kind, bits, most in (
        (pa.time32("s"), 32, 86_399),
        (pa.time32("ms"), 32, 86_399_999),
        (pa.time64("us"), 64, 86_399_999_999),
        (pa.time64("ns"), 64, 86_399_999_999_999),
    ):
        made.append(_of_ints(kind, bits, 0, most))
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "Europe/Paris"):
            kind = pa.timestamp(unit, zone)
            to_array = lambda values, kind=kind: pa.array(values, pa.int64()).view(kind)  # noqa: E731
            made.append((st.just(kind), to_array, _SECONDS if unit == "s" else _INT64))
        made.append(_of_ints(pa.duration(unit), 64, -(2**63), 2**63 - 1))
    made.append((
        st.just(pa.uuid()),
        lambda values: pa.ExtensionArray.from_storage(pa.uuid(), pa.array(values, pa.binary(16))),
        st.binary(min_size=16, max_size=16),
    ))  # fmt: skip
    return made


def held(rows: int) -> st.SearchStrategy[pa.Array]:
    """A column of a random type that a run can hold."""
    return columns(rows).filter(lambda column: why_not_held(column.type) is None)


@st.composite
def columns(draw: Any, rows: int, depth: int = 2) -> pa.Array:
    """A column of a random type with nulls.

    A run can hold all of them, but for extension types in lists of lists, which pyarrow 26 cannot
    build.
    """
    choices = ["scalar"] * 3 + ["encoded"]
    if depth:
        choices += ["list", "struct", "map", "fixed"]
    form = draw(st.sampled_from(choices))
    if form == "scalar":
        _, to_array, values = draw(st.sampled_from(scalars()))
        return to_array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)))
    if form == "encoded":
        text = pa.array(
            draw(st.lists(st.none() | _TEXT, min_size=rows, max_size=rows)), pa.string()
        )
        return text.dictionary_encode()
    if form == "struct":
        names = draw(st.lists(_TEXT, min_size=1, max_size=3, unique=True))
        fields = [draw(columns(rows, depth - 1)) for _ in names]
        return pa.StructArray.from_arrays(
            fields, names, mask=pa.array(draw(_mask(rows)), pa.bool_())
        )
    if form == "fixed":
        inner = draw(columns(2 * rows, depth - 1))
        mask = pa.array(draw(_mask(rows)), pa.bool_())
        return pa.FixedSizeListArray.from_arrays(inner, 2, mask=mask)
    lengths = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    if form == "map":
        keys = pa.array([f"k{n}" for n in range(offsets[-1])], pa.string())
        return pa.MapArray.from_arrays(offsets, keys, draw(columns(offsets[-1], depth - 1)))
    # A null list has no elements here: that is what files hold.
    mask = [drawn and not length for drawn, length in zip(draw(_mask(rows)), lengths, strict=True)]
    kind = draw(st.sampled_from([pa.ListArray, pa.LargeListArray]))
    return kind.from_arrays(
        pa.array(offsets, pa.int32() if kind is pa.ListArray else pa.int64()),
        draw(columns(offsets[-1], depth - 1)),
        mask=pa.array(mask, pa.bool_()),
    )


def _mask(rows: int) -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=rows, max_size=rows)
