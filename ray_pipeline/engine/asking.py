"""Runs an ask stage over the rows of one unit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray

from ray_pipeline.core.arrow_types import python_rows
from ray_pipeline.core.errors import BudgetExhausted, RunError, Stopping, UserError
from ray_pipeline.core.rows import (
    DROPPED,
    ENVELOPE_COLUMNS,
    FAILED,
    KEPT,
    created_row_id,
    error_reason,
)
from ray_pipeline.engine.coordinator import CoordinatorHandle
from ray_pipeline.engine.segments import checked, failed_row, in_order, schema_after
from ray_pipeline.engine.unit import SegmentJob
from ray_pipeline.llm.asker import RequestTemplate, UnitAsker
from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.types import Engine
from ray_pipeline.models.control_tokens import ROWS_WITH_CONTROL_TEXT, rows_with_control_text
from ray_pipeline.rundir.account import CUT_ANSWERS, StageAccount
from ray_pipeline.rundir.responses import FLUSH_SECONDS, Journal
from ray_pipeline.stage import AskStage, Drop, Expand, Row

_T = TypeVar("_T")
#: Seconds that requests in flight may take to finish when the run stops.
_GRACE = 15.0

#: What pyarrow raises for a value that is not of a column's type.
_DOES_NOT_FIT = (pa.ArrowException, TypeError, ValueError, OverflowError)

#: The result of `_ask_row`: status, reason, the row's data afterwards, the rows created from it.
_Verdict = tuple[str, str | None, Row, list[Row]]


async def ask_unit(
    stage: AskStage,
    rows: pa.Table,
    asker: UnitAsker,
    stopping: Callable[[Exception], None] = lambda _: None,
) -> tuple[pa.Table, StageAccount]:
    """Run an ask stage on all rows of a unit concurrently; the engine limits requests in flight.

    Args:
        stage: the stage.
        rows: kept rows with their envelope.
        asker: sends the unit's requests to the model.
        stopping: called with the error that stops the run, before requests in flight are waited
            for.

    Returns: the rows after the stage, and its account.

    Raises:
        BudgetExhausted, RunError, Stopping: the run stops; answers that arrived are stored, unless
            the error says that they cannot be.
    """
    began = time.perf_counter()
    before = python_rows(rows)
    tasks = [asyncio.create_task(_ask_row(stage, row, asker)) for row in before]
    asker.count_waiting(tasks)
    try:
        verdicts = await asyncio.gather(*tasks)
    except (BudgetExhausted, RunError, Stopping) as error:
        # Requests in flight may have been paid for: let them finish, and start no new ones.
        asker.stop()
        stopping(error)
        _, unfinished = await asyncio.wait(tasks, timeout=min(_GRACE, asker.timeout_seconds))
        if unfinished:
            await asker.abandon()
        # The first error is the one to report; without this, the others would be logged.
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    out = _assemble(stage, rows, before, verdicts)
    account = StageAccount.of(stage.name, rows, out)
    account.seconds = time.perf_counter() - began
    account.llm = asker.usage
    kept = {
        row["row_id"] for row, verdict in zip(before, verdicts, strict=True) if verdict[0] == KEPT
    }
    if cut := len(kept & asker.cut_rows):
        account.counts[CUT_ANSWERS] = cut
    if asker.replaced_characters:
        account.counts["replaced_characters"] = asker.replaced_characters
    if spelled := rows_with_control_text(rows, list(stage.reads)):
        account.counts[ROWS_WITH_CONTROL_TEXT] = spelled
    return out, account


async def _ask_row(stage: AskStage, row: Row, asker: UnitAsker) -> _Verdict:
    data = {name: value for name, value in row.items() if name not in ENVELOPE_COLUMNS}
    try:
        result = await stage.ask(dict(data), asker.for_row(row["row_id"]))
    except AnswerError as error:
        return FAILED, str(error), data, []
    except (BudgetExhausted, RunError, Stopping, UserError):
        raise
    except Exception as error:
        return FAILED, error_reason(error), data, []
    if isinstance(result, Drop):
        return DROPPED, result.reason, result.row or data, []
    if isinstance(result, Expand):
        return KEPT, None, result.row, result.created
    return KEPT, None, result, []


def _assemble(
    stage: AskStage, rows: pa.Table, before: list[Row], verdicts: list[_Verdict]
) -> pa.Table:
    """The unit's table after the stage, with the rows that it created."""
    schema = schema_after(stage, rows.schema)
    after: list[Row] = []
    for old, (status, reason, data, _) in zip(before, verdicts, strict=True):
        after.append({**data, **_envelope(old["row_id"], old["parent_id"], status, reason)})
    for old, (_, _, _, created) in zip(before, verdicts, strict=True):
        for number, data in enumerate(created):
            row_id = created_row_id(old["row_id"], stage.name, number)
            after.append({**data, **_envelope(row_id, old["row_id"], KEPT, None)})
    try:
        out = _table(stage, after, schema, rows, before)
    except (*_DOES_NOT_FIT, RunError):
        # A value of some row does not fit its column: only that row fails.
        out = pa.concat_tables(
            _table_alone(stage, row, rows, before, i, schema) for i, row in enumerate(after)
        )
    return checked(stage, rows, in_order([out], rows["row_id"].combine_chunks()))


def _envelope(row_id: str, parent_id: str | None, status: str, reason: str | None) -> Row:
    return {
        "row_id": row_id,
        "parent_id": parent_id,
        "status": status,
        "stage": None,
        "reason": reason,
    }


def _table(
    stage: AskStage, after: list[Row], schema: pa.Schema, rows: pa.Table, before: Sequence[Row]
) -> pa.Table:
    """Rows as a table.

    Args:
        stage: the stage.
        after: the rows as it left or created them.
        schema: of the result.
        rows: the rows that the stage was given; values that it left alone are taken from here.
        before: the same rows as Python's values.
    """
    for row in after:
        if unknown := row.keys() - set(schema.names):
            raise RunError(f"an ask stage returned undeclared columns: {sorted(unknown)}")
    written = set(stage.writes)
    columns = [
        pa.array([row.get(field.name) for row in after], field.type)
        if field.name in written
        else _carried(field, after, rows, before)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _carried(field: pa.Field, after: list[Row], rows: pa.Table, before: Sequence[Row]) -> Any:
    """A column that the stage does not write. Only values that it changed all the same are made
    anew.

    Python holds less than Arrow: it would round nanoseconds, or refuse the year 12,000.
    """
    name = field.name
    values = [row.get(name) for row in after]
    if name not in rows.column_names or not rows.schema.field(name).type.equals(field.type):
        return pa.array(values, field.type)
    # By identity: a created row has its parent's values, and which row is its parent is unknown.
    places = {id(row[name]): place for place, row in reversed(list(enumerate(before)))}
    carried = [
        place if place < len(before) and before[place][name] is value else places.get(id(value))
        for place, value in enumerate(values)
    ]
    if None not in carried:
        return rows[name].take(pa.array(carried, pa.int64()))
    anew = [value for value, place in zip(values, carried, strict=True) if place is None]
    made = pa.chunked_array([*rows[name].chunks, pa.array(anew, field.type)], field.type)
    following = iter(range(rows.num_rows, len(made)))
    taken = [next(following) if place is None else place for place in carried]
    return made.take(pa.array(taken, pa.int64()))


def _table_alone(
    stage: AskStage,
    row: Row,
    rows: pa.Table,
    before: Sequence[Row],
    index: int,
    schema: pa.Schema,
) -> pa.Table:
    try:
        if index >= rows.num_rows:
            return _table(stage, [row], schema, rows, before)
        return _table(stage, [row], schema, rows.slice(index, 1), before[index : index + 1])
    except (*_DOES_NOT_FIT, RunError) as error:
        if index >= rows.num_rows:
            raise RunError(
                f"stage {stage.name!r} created a row that does not fit: {error}"
            ) from None
        return failed_row(stage, rows.slice(index, 1), error)


class AskingLoop:
    """An event loop in a thread of its own, with the engine whose requests run on it.

    Args:
        job: the segment.
        coordinator: the run's coordinator.
        llm: name of the model in the configuration.

    Raises:
        UserError: the engine's configuration is not usable on this machine.
        RunError: the engine did not start.
    """

    def __init__(self, job: SegmentJob, coordinator: CoordinatorHandle, llm: str) -> None:
        self._job = job
        self._coordinator = coordinator
        self._llm = llm
        self._config = job.llms[llm]
        self._name = f"{os.getpid()}-{id(self)}"
        self._askers: set[UnitAsker] = set()
        self._journals: dict[str, Journal] = {}
        # Thousands of waiting rows are small objects without reference cycles. Scanning them
        # repeatedly cost 10% of the throughput at 256 requests in flight (benchmarks/api_stage.py).
        gc.set_threshold(50_000, 50, 20)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="asking").start()
        self._engine: Engine = self._call(self._start())

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> Engine:
        self._housekeeping = asyncio.create_task(self._report_and_flush())
        self._limits = LimitsClient(self._name, self._coordinator.sync_limits.remote)
        self._limits.before_sending = self._job.storage.check_held
        pool = partial(self._coordinator.pool.remote, self._llm)
        return self._config.engine_type.connect(self._llm, self._config, self._limits, pool)

    def ask(
        self, stage: AskStage, unit_id: str, rows: pa.Table, ask_afresh: list[str]
    ) -> tuple[pa.Table, StageAccount]:
        """Run an ask stage on the rows of a unit; blocks the calling thread.

        Args:
            stage: the stage.
            unit_id: the unit, whose journal stores the responses.
            rows: kept rows with their envelope.
            ask_afresh: ids of rows whose rejected answers are not reused.

        Raises:
            BudgetExhausted, RunError, Stopping: as `ask_unit`. The coordinator has been told of
                answers that could not be stored.
        """
        journal = Journal(self._job.storage, stage.name, unit_id)
        template = RequestTemplate(
            stage.name, self._config, self._job.revisions[self._llm], self._job.seed, self._llm
        )
        asker = UnitAsker(template, self._engine, journal, frozenset(ask_afresh))
        self._journals[unit_id] = journal
        try:
            result = self._call(self._ask(stage, rows, asker))
        except BaseException:
            with contextlib.suppress(RunError):  # the first error is the one to report
                self._close(journal)
            raise
        self._close(journal)
        return result

    def _close(self, journal: Journal) -> None:
        """Close a unit's journal, and report the answers that could not be stored.

        Raises:
            RunError: something could not be written.
        """
        try:
            journal.close()
        finally:
            counts = {journal.unit_id: replace(journal.recorded)}
            lost = journal.unwritten
            told = self._coordinator.progress.remote(self._job.segment.index, counts, lost)
            if lost.answers:
                ray.get(told)
            self._journals.pop(journal.unit_id, None)

    async def _ask(
        self, stage: AskStage, rows: pa.Table, asker: UnitAsker
    ) -> tuple[pa.Table, StageAccount]:
        self._askers.add(asker)
        asker.cannot_store = self._stop_run
        try:
            return await ask_unit(stage, rows, asker, self._stop_run)
        finally:
            self._askers.discard(asker)

    def _stop_run(self, error: Exception) -> None:
        """Stop sending in this process at once, and in the others as soon as they can be told.

        Above all where an answer could not be stored: the next ones could not be either.
        """
        self._stop()
        if isinstance(error, BudgetExhausted):
            self._coordinator.stop.remote("budget_exhausted", str(error))
        elif isinstance(error, RunError):
            self._coordinator.stop.remote("failed", str(error))

    async def _report_and_flush(self) -> None:
        """Every second, report progress and check for the order to stop; flush the journals."""
        flushed = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            journals = dict(self._journals)
            counts = {unit_id: replace(journal.recorded) for unit_id, journal in journals.items()}
            rows = sum(asker.rows_waiting for asker in self._askers)
            stop = await self._coordinator.progress.remote(
                self._job.segment.index, counts, None, (self._name, rows)
            )
            if stop:
                self._stop()
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                try:
                    for journal in journals.values():
                        await asyncio.to_thread(journal.flush)
                except RunError as error:
                    self._stop_run(error)
                flushed = time.monotonic()

    def _stop(self) -> None:
        """Start no further requests; those in flight may finish."""
        for asker in self._askers:
            asker.stop()
        self._limits.failure = self._limits.failure or Stopping
        self._limits.pump()
