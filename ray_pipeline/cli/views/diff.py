"""How `diff` shows what changed: tables for a terminal, one JSON object for a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ray_pipeline.core.redaction import without_known
from ray_pipeline.core.text import NONE, count, dollars, duration, one_line, plain
from ray_pipeline.rundir.diff import Changed, ChangedRow, RowExample, RowsDiff, RunDiff, StageDiff

_VALUE, _TEXT = 48, 160
#: Maximum number of reasons shown for rows that are in one run only.
_WHYS = 12


def print_diff(console: Console, found: RunDiff, as_json: bool = False) -> None:
    """Print what changed between two runs."""
    if as_json:
        options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        text = orjson.dumps(to_json(found), str, options).decode()
        console.file.write(without_known(text) + "\n")
        return
    console.print(Group(*_parts(found)))


def to_json(found: RunDiff) -> dict[str, Any]:
    """What changed, as plain data; changed numbers include their difference."""
    data = asdict(found)
    for name in ("config", "effort", "environment", "metrics"):
        data[name] = [_changed_json(change) for change in getattr(found, name)]
    for stage, plain_stage in zip(found.stages, data["stages"], strict=True):
        plain_stage["reasons"] = [_changed_json(change) for change in stage.reasons()]
    return data


def _changed_json(change: Changed) -> dict[str, Any]:
    data: dict[str, Any] = {"key": change.key, "a": change.a, "b": change.b}
    if change.effect is not None:
        data["effect"] = change.effect
    if change.delta is not None:
        data["delta"] = change.delta
    return data


def _parts(found: RunDiff) -> Iterator[RenderableType]:
    yield Text.assemble(
        ("A ", "bold"), f"{plain(found.a)} ({_status(found.status[0])})\n",
        ("B ", "bold"), f"{plain(found.b)} ({_status(found.status[1])})",
    )  # fmt: skip
    yield from _section("Configuration", _values(found.config, effects=True), found.config)
    yield from _section("Stages and account", _account(found.stages), _differing(found.stages))
    reasons = [(s.name, change) for s in found.stages for change in s.reasons()]
    if reasons:
        yield from _section("Reasons", _reasons(reasons), reasons)
    yield from _rows(found.rows)
    effort = [change for change in found.effort if change.a or change.b]
    yield from _section("Time, tokens and cost", _effort(effort), effort)
    yield from _section("Environment", _values(found.environment), found.environment)
    if found.metrics:
        yield from _section("Metrics", _values(found.metrics), found.metrics)


def _status(status: str) -> str:
    return status.replace("_", " ")


def _section(title: str, table: RenderableType, things: Sequence[Any]) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", "bold")
    yield table if things else Text("nothing differs", "dim")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        if name in ("key", "stage", "reason", "effect", ""):
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", overflow="fold")
    return table


def _values(changes: Sequence[Changed], effects: bool = False) -> Table:
    has_deltas = any(change.delta is not None for change in changes)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ["key", "A", "B"] + ["difference"] * has_deltas + ["changes"] * effects:
        table.add_column(name, overflow="fold")
    for change in changes:
        cells = [Text(one_line(change.key, _VALUE)), _value(change.a), _value(change.b)]
        if has_deltas:
            cells.append(Text("" if change.delta is None else f"{change.delta:+.6g}"))
        if effects:
            names = {"identity": "rows", "execution": "only how they are made"}
            cells.append(Text(names.get(change.effect or "", ""), "dim"))
        table.add_row(*cells)
    return table


def _value(value: Any) -> Text:
    return Text(one_line(value, _VALUE), "dim" if value is None else "")


def _differing(stages: Sequence[StageDiff]) -> list[StageDiff]:
    return [stage for stage in stages if stage.is_changed or not stage.same_fingerprint]


def _account(stages: Sequence[StageDiff]) -> Table:
    """One line per stage: B's numbers, with their difference to A's if they differ."""
    table = _table("stage", "rows in", "created", "kept", "dropped", "failed", "")
    for stage in stages:
        cells = [
            _number(stage, name) for name in ("rows_in", "created", "kept", "dropped", "failed")
        ]
        table.add_row(Text(stage.name), *cells, Text(", ".join(_notes(stage)), "dim"))
    return table


def _notes(stage: StageDiff) -> Iterator[str]:
    if stage.a is None or stage.b is None:
        yield "only in B" if stage.a is None else "only in A"
    elif not stage.same_fingerprint:
        yield "not the same stage or input"
    unfinished = [name for name in "AB" if not getattr(stage, f"finished_{name.lower()}")]
    if unfinished:
        yield f"not finished in {' and '.join(unfinished)}"


def _number(stage: StageDiff, name: str) -> Text:
    a = getattr(stage.a, name) if stage.a else None
    b = getattr(stage.b, name) if stage.b else None
    text = Text(count(b if b is not None else a or 0))
    if a is not None and b is not None and a != b:
        text.append(f" ({b - a:+,})", "bold")
    return text


def _reasons(reasons: Sequence[tuple[str, Changed]]) -> Table:
    table = _table("stage", "reason", "A", "B", "difference")
    for stage, change in reasons:
        table.add_row(
            Text(stage),
            Text(one_line(change.key, _VALUE)),
            count(change.a),
            count(change.b),
            f"{change.b - change.a:+,}",
        )
    return table


#: How numbers are shown, and what they are called, where it is not by their keys.
_SHOWN = {"seconds": duration, "work_seconds": duration, "cost_usd": dollars, "lost_usd": dollars}
_NAMES = {
    "seconds": "time",
    "work_seconds": "work",
    "cost_usd": "cost",
    "lost_usd": "possibly billed",
}


def _effort(changes: Sequence[Changed]) -> Table:
    table = _table("", "A", "B", "difference")
    for change in changes:
        show = _SHOWN.get(change.key, count)
        delta = change.delta or 0.0
        sign = "" if not delta else "−" if delta < 0 else "+"
        name = _NAMES.get(change.key)
        table.add_row(
            name or change.key.replace("_", " "),
            show(change.a),
            show(change.b),
            f"{sign}{show(abs(delta))}" if delta else NONE,
        )
    return table


def _rows(rows: RowsDiff) -> Iterator[RenderableType]:
    yield Text("\nRows kept in the end", "bold")
    yield Text(
        f"{count(rows.both)} in both, {count(rows.changed)} of them with another value; "
        f"{count(rows.only_a)} only in A, {count(rows.only_b)} only in B"
    )
    for which, names in (("A", rows.columns_a), ("B", rows.columns_b)):
        if names:
            yield Text(f"columns only in {which}: {', '.join(map(plain, names))}")
    yield from _only("A", "B", rows.why_only_a, rows.examples_a)
    yield from _only("B", "A", rows.why_only_b, rows.examples_b)
    if rows.examples_changed:
        yield Text("\nin both, with another value, for example", "italic")
    for row in rows.examples_changed:
        yield Padding(_changed_row(row), (0, 0, 0, 2), expand=False)


def _only(
    here: str, there: str, why: dict[str, int], examples: Sequence[RowExample]
) -> Iterator[RenderableType]:
    if not why:
        return
    yield Text(f"\nonly in {here}; in {there} they ended as", "italic")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for end, number in list(why.items())[:_WHYS]:
        table.add_row(count(number), Text(plain(end)))
    yield Padding(table, (0, 0, 0, 2), expand=False)
    for row in examples:
        text = Text.assemble((f"\n{row.row_id}", "bold"), f"  in {there}: {plain(row.ended)}")
        for name, value in row.texts.items():
            text.append(f"\n  {one_line(name, 24)}: ", "dim").append(one_line(value, _TEXT))
        yield Padding(text, (0, 0, 0, 2), expand=False)


def _changed_row(row: ChangedRow) -> Text:
    text = Text(f"\n{row.row_id}", "bold")
    for name, (a, b) in row.columns.items():
        text.append(f"\n  {one_line(name, 24)}\n", "dim not bold")
        text.append("    A ", "red not bold").append(f"{one_line(a, _TEXT)}\n", "not bold")
        text.append("    B ", "green not bold").append(one_line(b, _TEXT), "not bold")
    return text
