"""The output of `preview`: what a quality threshold would keep, as a table or JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ray_pipeline.core.text import NONE, count, figure, one_line, share
from ray_pipeline.stages.subsets.preview import Preview


def print_previews(
    console: Console, previews: Mapping[str, Preview], as_json: bool = False
) -> None:
    """Print what each subset keeps and, if requested, how much of each source."""
    if as_json:
        for name, preview in previews.items():
            console.file.write(orjson.dumps({"subset": name, **_plain(preview)}).decode() + "\n")
        return
    first = next(iter(previews.values()))
    pool = "rows to train on" if first.is_split else "scored rows, before any are held out"
    console.print(f"of {count(first.pool)} {pool}:")
    console.print(_table(previews))
    for name, preview in previews.items():
        if preview.short_of:
            asked = count(preview.pool + preview.short_of)
            console.print(f"{name}: {asked} rows are asked; it would take all there are")
        if preview.by is not None:
            console.print(f"\n{name}, by {preview.by}:")
            console.print(_sources(preview))


def _plain(preview: Preview) -> dict[str, Any]:
    """The preview as plain data."""
    kept = preview.kept
    figures: dict[str, Any] = {
        "pool": preview.pool,
        "rows": kept.rows,
        "share": kept.rows / preview.pool,
    }
    if preview.pool_tokens is not None:
        figures |= {"tokens": kept.tokens["tokens"], "pool_tokens": preview.pool_tokens}
    if kept.rows:
        figures |= {"score_min": kept.lowest, "score_max": kept.highest, "score_mean": kept.mean}
    return figures | ({"by_source": kept.by_source()} if preview.by is not None else {})


def _table(previews: Mapping[str, Preview]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("kept by")
    for heading in ("rows", "share", "tokens", "of all tokens", "scores", "mean"):
        table.add_column(heading, justify="right")
    for name, preview in previews.items():
        kept, tokens = preview.kept, preview.kept.tokens["tokens"]
        known = preview.pool_tokens is not None
        table.add_row(
            Text(name),
            count(kept.rows),
            share(kept.rows, preview.pool),
            count(tokens) if known else NONE,
            share(tokens, preview.pool_tokens) if preview.pool_tokens else NONE,
            f"{figure(kept.lowest)} to {figure(kept.highest)}" if kept.rows else NONE,
            figure(kept.mean) if kept.rows else NONE,
        )
    return table


def _sources(preview: Preview) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(preview.by or "")
    for heading in ("kept", "of them", "of its rows"):
        table.add_column(heading, justify="right")
    for source, number in preview.kept.by_source().items():
        of = preview.pool_sources.get(source)
        own = share(number, of) if of else NONE
        table.add_row(
            Text(one_line(source, 60)), count(number), share(number, preview.kept.rows), own
        )
    return table
