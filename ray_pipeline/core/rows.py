"""The row envelope: identity, status and reason of every row.

Rows travel as Arrow tables whose data columns are followed by the envelope's five columns.
A stage receives rows that are all ``kept`` and marks those it drops or fails; nothing is ever
removed from a table, so that every row can be accounted for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import in_one_line

KEPT = "kept"
DROPPED = "dropped"
FAILED = "failed"

ENVELOPE = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("parent_id", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
    ]
)
ENVELOPE_COLUMNS = tuple(ENVELOPE.names)


def source_row_id(file_id: str, position: int) -> str:
    """Identity of row ``position`` (from 0) of the source file whose identity is ``file_id``."""
    return _short_hash(f"{file_id}:{position}")


def created_row_id(parent_id: str, stage: str, number: int) -> str:
    """Identity of the ``number``-th row (from 0) that ``stage`` makes from ``parent_id``."""
    return _short_hash(f"{parent_id}>{stage}:{number}")


def _short_hash(text: str) -> str:
    # 64 bits collide with a chance of 3e-8 at a million rows, 128 bits never in practice.
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def with_envelope(data: pa.Table, row_ids: Sequence[str]) -> pa.Table:
    """Append the envelope of freshly read rows (all kept) to their data columns."""
    rows = data.num_rows
    columns = {
        "row_id": pa.array(row_ids, pa.string()),
        "parent_id": pa.nulls(rows, pa.string()),
        "status": pa.array([KEPT] * rows, pa.string()),
        "stage": pa.nulls(rows, pa.string()),
        "reason": pa.nulls(rows, pa.string()),
    }
    for field in ENVELOPE:
        data = data.append_column(field, columns[field.name])
    return data


def data_columns(rows: pa.Table) -> list[str]:
    """Names of the data columns, in order, without the envelope."""
    return [name for name in rows.column_names if name not in ENVELOPE_COLUMNS]


def set_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Replace the column ``name``, or add it in front of the envelope when it is new."""
    index = rows.schema.get_field_index(name)
    if index >= 0:
        # As nullable as before: tables that were marked and ones that were not must concatenate.
        old = rows.schema.field(index)
        return rows.set_column(index, old.with_type(values.type), values)
    return rows.add_column(len(data_columns(rows)), name, values)


def drop(rows: pa.Table, mask: pa.Array | pa.ChunkedArray, reason: str | pa.Array) -> pa.Table:
    """Mark the rows where ``mask`` is true, and that are still kept, as dropped for ``reason``.

    Args:
        rows: a table with the envelope.
        mask: booleans, one a row; null counts as false.
        reason: one reason for all, or a string array with one a row. A reason is a short stable
            code (``length:too_long``), optionally followed by ``": "`` and detail.
    """
    return _mark(rows, mask, DROPPED, reason)


#: The reason of a row whose processing killed the worker process.
CRASHED = "crash:worker_died: the process died on this row"
#: The reason of a row that its processing did not get done with (`engine.stuck`).
STUCK = "stuck:no_end: it took longer than a row may take (stuck_after_seconds)"


def error_reason(error: BaseException) -> str:
    """The reason of a row on which a stage raised an unexpected exception.

    Its code is ``error:`` and the exception's type; its detail is the message.
    """
    return f"error:{type(error).__name__}: {in_one_line(error)}"


def fail(
    rows: pa.Table,
    mask: pa.Array | pa.ChunkedArray,
    reason: str | pa.Array,
    stage: str | None = None,
) -> pa.Table:
    """Mark the rows where ``mask`` is true, and that are still kept, as failed for ``reason``.

    Args:
        rows: a table with the envelope.
        mask: booleans, one a row; null counts as false.
        reason: one reason for all, or a string array with one a row, see `drop`.
        stage: name of the stage that failed them. A stage passes None: the engine enters its name.
    """
    return _mark(rows, mask, FAILED, reason, stage)


def _mark(
    rows: pa.Table,
    mask: pa.Array | pa.ChunkedArray,
    status: str,
    reason: str | pa.Array,
    stage: str | None = None,
) -> pa.Table:
    # A row keeps the first verdict: a later rule never overwrites the reason of an earlier one.
    mask = pc.and_(pc.fill_null(mask, False), pc.equal(rows["status"], KEPT))
    if not pc.any(mask).as_py():
        return rows
    rows = set_column(rows, "reason", pc.if_else(mask, reason, rows["reason"]))
    if stage is not None:
        rows = set_column(rows, "stage", pc.if_else(mask, stage, rows["stage"]))
    return set_column(rows, "status", pc.if_else(mask, status, rows["status"]))


def kept(rows: pa.Table) -> pa.Table:
    """The rows that the next stage reads."""
    return rows.filter(pc.equal(rows["status"], KEPT))


def failed(rows: pa.Table) -> pa.Table:
    """The rows that failed."""
    return rows.filter(pc.equal(rows["status"], FAILED))


def reset_marks(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows with status kept and without stage and reason, as before any stage marked them.

    Args:
        rows: a table with the envelope.
        names: columns to keep; those that the table lacks are ignored.
    """
    nothing = pa.nulls(rows.num_rows, pa.string())
    rows = set_column(rows, "status", pa.array([KEPT] * rows.num_rows, pa.string()))
    rows = set_column(set_column(rows, "stage", nothing), "reason", nothing)
    return rows.select([name for name in rows.column_names if name in names])


def reason_code(reason: str) -> str:
    """The stable part of a reason, without its detail. The ledger counts rows by it."""
    return reason.split(": ", 1)[0]
