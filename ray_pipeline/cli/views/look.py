"""The output of `status`, `rows` and `trace`: text for a terminal, JSON lines for a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, Literal

import orjson
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ray_pipeline.core.arrow_types import json_rows
from ray_pipeline.core.numbers import finite
from ray_pipeline.core.redaction import without_known
from ray_pipeline.core.rows import DROPPED, ENVELOPE_COLUMNS, FAILED, KEPT
from ray_pipeline.core.text import count, dollars, duration, figure, one_line, plain, shortened
from ray_pipeline.evaluate.text import QUALITY
from ray_pipeline.report.accounts import control_text, cut_answers, damaged_lines
from ray_pipeline.report.leaks import leak_warning
from ray_pipeline.report.sections.evaluation import in_order
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.ledger import Ledger, LedgerEntry, Status
from ray_pipeline.rundir.reader import Answer, RunReader
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.rundir.trace import Change, Event, Trace
from ray_pipeline.rundir.trainings import Training, trainings

#: Characters of one value in `rows`, and of each side of a change in `trace`.
_VALUE = 160
_SIDE = 400
#: Characters of the reason for which a row left.
_REASON = 600
_COLOURS = {KEPT: "green", DROPPED: "yellow", FAILED: "red"}


def status(reader: RunReader) -> RenderableType:
    """Print the rows of each stage, why rows were dropped or failed, and what was trained."""
    ledger = reader.ledger
    parts: list[RenderableType] = [_headline(reader)]
    if (warning := leak_warning(ledger.entries)) is not None:
        parts += [Text(f"{warning}\n", "bold red")]
    parts += [_account(ledger)]
    parts += map(Text, _money_notes(ledger))
    if sources := ledger.by_source():
        parts += [Text(), _sources(sources)]
    if ledger.notes:
        parts += [Text(), *(Text(f"source: {plain(note)}") for note in ledger.notes)]
    if any(entry.account.reasons for entry in ledger.entries):
        parts += [Text(), _reasons(ledger)]
    parts += [Text(f"\n{line}") for line in damaged_lines(ledger.entries)]
    parts += [Text(f"\n{line}") for line in cut_answers(ledger.entries)]
    parts += [Text(f"\n{line}") for line in control_text(ledger.entries)]
    if (artifacts := made(reader)) is not None:
        parts += [Text(), artifacts]
    wrong = [entry.account.name for entry in ledger.entries if not entry.account.balances]
    if wrong:
        parts += [Text(f"\nthe account does not balance: {', '.join(wrong)}", "bold red")]
    return Group(*parts)


def _headline(reader: RunReader) -> Text:
    ledger = reader.ledger
    text = Text(f"{plain(ledger.run)}: ")
    text.append(ledger.status.replace("_", " "), "bold")
    text.append(f", {duration(ledger.seconds)}")
    if ledger.message:
        text.append(f"\n{plain(ledger.message)}")
    for line in ledger.waiting:
        text.append(f"\n{plain(line)}")
    for note in (*ledger.export_notes, *ledger.damages):
        text.append(f"\n{plain(note)}")
    if reader.driver_is_gone():
        text.append("\nits process is gone: it was killed. Run it again to continue", "bold")
    text.append("\n")
    return text


def _account(ledger: Ledger) -> Table:
    columns = ["stage", "rows in", "created", "kept", "dropped", "failed"]
    usages = [entry.account.llm for entry in ledger.entries if entry.account.llm is not None]
    columns += ["requests", "tokens"] * bool(usages)
    columns += ["thinking"] * any(usage.reasoning_tokens for usage in usages)
    columns += ["cost"] * any(usage.cost_usd for usage in usages)
    has_notes = any(entry.reused or not entry.finished for entry in ledger.entries)
    columns += ["work"] + [""] * has_notes
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        justify: Literal["left", "right"] = "left" if name in ("stage", "") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for entry in ledger.entries:
        cells = _account_cells(entry)
        table.add_row(*(cells[name] for name in columns))
    return table


def _account_cells(entry: LedgerEntry) -> dict[str, str]:
    """The cells of the table, by column. Zeros are shown as blanks."""
    account, llm = entry.account, entry.account.llm or LlmUsage()
    numbers = {
        "created": account.created,
        "kept": account.kept,
        "dropped": account.dropped,
        "failed": account.failed,
        "requests": llm.sent,
        "tokens": llm.prompt_tokens + llm.completion_tokens,
        "thinking": llm.reasoning_tokens,
    }
    return {
        "stage": account.name,
        "rows in": count(account.rows_in),
        **{name: count(number) if number else "" for name, number in numbers.items()},
        "cost": dollars(llm.cost_usd) if llm.cost_usd else "",
        "work": duration(account.seconds),
        "": _note(entry),
    }


def _note(entry: LedgerEntry) -> str:
    if entry.finished:
        return "reused" if entry.reused else ""
    waiting = f", {count(entry.rows_waiting)} to come" if entry.rows_waiting else ""
    return f"not finished{waiting}"


def _money_notes(ledger: Ledger) -> Iterator[str]:
    """Lines about requests and dollars that the table does not show."""
    usages = [entry.account.llm for entry in ledger.entries if entry.account.llm is not None]
    if other := ledger.other:
        yield (
            f"\nAnd {count(other.sent)} requests ({dollars(other.cost_usd)}) about stages or units "
            "that this run does not have: an earlier version of the job sent them"
        )
    if lost := sum(usage.lost_usd for usage in usages) + (other.lost_usd if other else 0.0):
        yield f"\nTries without a reply may have been billed: {dollars(lost)} at most"


def _sources(sources: Mapping[str, Mapping[str, int]]) -> Table:
    """Rows of each source that were kept, dropped and failed, over all stages."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("source")
    columns = ("rows_in", "created", "kept", "dropped", "failed")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for source, rows in sources.items():
        cells = [count(rows[name]) if rows[name] or name == "rows_in" else "" for name in columns]
        table.add_row(source, *cells)
    return table


def _reasons(ledger: Ledger) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("rows", justify="right")
    table.add_column("stage")
    table.add_column("reason", overflow="fold")
    for entry in ledger.entries:
        for reason, number in sorted(entry.account.reasons.items(), key=lambda pair: -pair[1]):
            table.add_row(count(number), entry.account.name, Text(one_line(reason, 60)))
    return table


def print_json_rows(console: Console, rows: Rows) -> None:
    """Print rows as they are read, one JSON object per line."""
    for row in _dicts(rows):
        console.file.write(without_known(orjson.dumps(row, str).decode()) + "\n")


def print_rows(console: Console, rows: Rows, account: StageAccount, limit: int) -> None:
    """Print rows as they are read, then the total number of rows.

    Args:
        console: the console to print to.
        rows: rows of one stage.
        account: the account of that stage.
        limit: the most rows that `rows` yields.
    """
    if rows.note is not None:
        console.print(Text(f"{rows.note}\n", "italic"))
    shown = 0
    for row in _dicts(rows):
        console.print(_row(row))
        shown += 1
    console.print(_how_many(account, shown, limit))


def _dicts(rows: Rows) -> Iterator[dict[str, Any]]:
    return (row for batch in rows for row in json_rows(batch))


def _how_many(account: StageAccount, shown: int, limit: int) -> Text:
    kept, dropped, failed = count(account.kept), count(account.dropped), count(account.failed)
    text = f"{count(shown)} rows shown; "
    text += f"{account.name} kept {kept}, dropped {dropped}, failed {failed}"
    return Text(text + (". --limit N shows more" if shown == limit else ""), "dim")


def _row(row: dict[str, Any]) -> RenderableType:
    title = Text(f"{row['row_id']}  ")
    title.append(row["status"], _COLOURS.get(row["status"], ""))
    if row["reason"]:
        # Whole: it may hold the words of a server, which say what to do.
        title.append(f"  {one_line(row['reason'], _REASON)}")
    values = Table(box=None, pad_edge=False, show_header=False)
    values.add_column(style="dim", no_wrap=True, max_width=24)
    values.add_column(overflow="fold")
    for name, value in row.items():
        if name not in ENVELOPE_COLUMNS and value is not None:
            values.add_row(Text(one_line(name, 24)), Text(one_line(value, _VALUE)))
    return Group(title, Padding(values, (0, 0, 1, 2), expand=False))


def trace(life: Trace, status: Status) -> RenderableType:
    """Print what each stage did with one row.

    Args:
        life: the row's trace.
        status: the run's status.
    """
    parts: list[RenderableType] = [_origin(life)]
    for event in life.events:
        parts += [Text(), *_event(event)]
    parts.append(Text("\n" + _end(life, status)))
    return Group(*parts)


def _origin(life: Trace) -> Text:
    text = Text.assemble("row ", (life.row_id, "bold"))
    where = (
        f"{plain(life.unit.uri)}, row {count(life.position + 1)}"
        if life.position is not None
        else ""
    )
    if life.parent_id is not None:
        text.append(f"\nmade from row {life.parent_id}")
        text.append(f", which comes from {where}" if where else "")
    elif where:
        text.append(f"\nread from {where}")
    return text.append(f"\nunit {life.unit.unit_id}")


def _event(event: Event) -> Iterator[RenderableType]:
    title = Text(" + ".join(event.stages), "bold")
    title.append(f"  {event.status}", _COLOURS.get(event.status, ""))
    if event.reason is not None:
        title.append(f" by {event.stage}: {plain(event.reason)}")
    yield title
    if event.created_by is not None:
        yield Text(f"  created by {event.created_by}; changes are against its parent")
    if event.from_source:
        yield Text("  as it came out (what it was in the source is not kept in a run directory)")
    elif not event.changes:
        yield Text("  nothing changed", "dim")
    for change in event.changes:
        yield from _change(change, event.from_source)
    for child in event.created:
        yield Text(f"  made the row {child}")
    for answer in event.answers:
        yield _answer(answer)


def _change(change: Change, whole: bool) -> Iterator[Text]:
    name = one_line(change.column, 40)
    after = one_line(change.after, _SIDE)
    if change.is_new or whole:
        if change.after is not None:
            yield Text.assemble("  ", (f"{name}: ", "dim"), after)
        return
    yield Text(f"  {name}", "dim")
    yield Text.assemble(("    - ", "red"), one_line(change.before, _SIDE))
    yield Text.assemble(("    + ", "green"), after)


def _answer(answer: Answer) -> Text:
    what = "an unreadable reply" if answer.malformed else "answered"
    facts = [f"{count(answer.prompt_tokens)} + {count(answer.completion_tokens)} tokens"]
    facts += [str(answer.finish_reason)] if answer.finish_reason else []
    facts += [dollars(answer.cost_usd)] if answer.cost_usd else []
    facts += [f"{answer.attempts} tries"] if answer.attempts > 1 else []
    facts += ["judged unusable"] if answer.rejected else []
    facts += [f"after {count(len(answer.thinking))} characters of thinking"] * bool(answer.thinking)
    head = f"  {answer.stage}: {answer.model} {what} ({', '.join(facts)}): "
    text = answer.text or (answer.thinking and f"(thinking) {answer.thinking}")
    return Text(head, "dim").append(shortened(plain(text), _SIDE), "not dim")


def _end(life: Trace, status: Status) -> str:
    if life.events and life.events[-1].status != KEPT:
        return f"rests in {life.events[-1].stage}, which {life.events[-1].status} it"
    if life.waits_for is not None:
        return f"not through {' + '.join(life.waits_for)} yet"
    if status == "succeeded":
        return "came through every stage"
    return "came through every stage that is done"


# The lines of `status` for stages that make files: trainings, searches, evaluations.

#: Steps that the time of a step is taken from, and figures and characters of any other stage.
_STEPS, _FIGURES, _FIGURE = 50, 6, 40


def made(reader: RunReader) -> Table | None:
    """A line for each stage that made files and for running trainings; None if there are none."""
    trained = {one.stage: one for one in trainings(reader)}
    lines = {}
    for entry in reader.ledger.entries:
        name = entry.account.name
        if figures := reader.made_by(name):
            lines[name] = "; ".join(_finished(figures))
    running = reader.ledger.status == "running" and not reader.driver_is_gone()
    for training in trained.values():
        if not training.is_finished:
            lines[training.stage] = "; ".join(_unfinished(training, running))
    if not lines:
        return None
    table = Table("made by", "", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.columns[1].overflow = "fold"
    for name, line in lines.items():
        table.add_row(Text(name), Text(line))
    return table


def _finished(figures: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(figures.get("models"), dict):
        return _evaluated(figures)
    if isinstance(figures.get("history"), list):
        return _searched(figures)
    if "pool" in figures and isinstance(figures.get("subsets"), dict):
        return _selected(figures)
    if "steps" in figures:
        return _trained(figures)
    return (
        f"{one_line(name, _FIGURE)} {one_line(value, _FIGURE)}"
        for name, value in list(figures.items())[:_FIGURES]
    )


def _selected(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, one in figures["subsets"].items():
        if isinstance(one, dict) and not one.get("control"):
            rows, least = finite(one.get("rows")), finite(one.get("score_min"))
            few = " (fewer than asked)" if one.get("smaller_than_asked") else ""
            yield f"{plain(name)} {count(rows or 0)} rows{few}, quality from {figure(least)}"
    if (pool := finite(figures["pool"])) is not None:
        yield f"of {count(pool)} rows to train on"


def _trained(figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures["steps"]:
        yield plain(figures.get("stopped") or "no steps")
        return
    loss, best = finite(figures.get("validation_loss")), finite(figures.get("best_step"))
    steps = finite(figures["steps"])
    if loss is not None:
        yield f"validation loss {figure(loss)}" + (f" at step {count(best)}" if best else "")
    ended = f", ended by {plain(figures['stopped'])}" if figures.get("stopped") else ""
    yield (f"{count(steps)} steps" if steps is not None else "trained") + ended
    if (rows := finite(figures.get("rows"))) is not None:
        yield f"{count(rows)} rows"


def _unfinished(training: Training, running: bool) -> Iterator[str]:
    steps, total = training.steps, training.total_steps
    state = "training" if running else "not finished"
    yield f"{state}: step {count(steps)}" + (f" of {count(total)}" if total else "")
    for name in ("loss", "validation_loss"):
        if points := training.points(name):
            yield f"{name.replace('_', ' ')} {figure(points[-1][1])}"
    seconds = [value for _, value in training.points("seconds")[-_STEPS:]]
    if running and seconds and total > steps:
        yield f"at most {duration(median(seconds) * (total - steps))} of steps to come"


def _evaluated(figures: Mapping[str, Any]) -> Iterator[str]:
    models = figures["models"]
    for metric in (metric for metric in QUALITY if metric.in_status):
        values = [
            f"{plain(model)} {figure(value)}"
            for model in in_order(models)
            if isinstance(models[model], dict)
            and (value := finite(models[model].get(metric.key))) is not None
        ]
        if values:
            yield f"{metric.label}: {', '.join(values)}"
    if (rows := finite(figures.get("rows"))) is not None:
        yield f"{count(rows)} rows"


def _searched(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{count(len(figures['history']))} trials"
    best, default = (finite(figures.get(key)) for key in ("best_loss", "configured_loss"))
    if best is not None:
        configured = f" (as configured: {figure(default)})" if default is not None else ""
        yield f"lowest loss {figure(best)}{configured}"
    if isinstance(values := figures.get("best_parameters"), dict) and values:
        yield ", ".join(f"{plain(n)} {one_line(value, _FIGURE)}" for n, value in values.items())
