"""The output of `plan`: what a run would do and cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ray_pipeline.engine.plan import StagePlan


def print_plan(console: Console, plans: Sequence[StagePlan]) -> None:
    """Print a line per stage, notes on the cost of some stages, and the estimated total cost."""
    console.print(_table(plans))
    for plan in plans:
        for note in (plan.note, *plan.notes):
            if note is not None:
                console.print(f"{plan.name}: {note}", markup=False, soft_wrap=True)
    total = sum(plan.max_cost_usd or 0 for plan in plans)
    console.print(
        f"about ${total:,.2f}, if every answer is as long as allowed and no request is repeated; "
        "estimated from a sample of the rows; nothing was run"
    )


def _table(plans: Sequence[StagePlan]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("stage", ""):
        table.add_column(heading)
    for heading in ("rows in", "requests", "prompt tokens", "answer tokens ≤", "cost ≈"):
        table.add_column(heading, justify="right")
    for plan in plans:
        numbers = (plan.requests, plan.prompt_tokens, plan.completion_tokens)
        asked = [f"{number:,}" if plan.requests else "" for number in numbers]
        cost = "" if plan.max_cost_usd is None else f"${plan.max_cost_usd:,.2f}"
        table.add_row(plan.name, plan.action, f"{plan.rows_in:,}", *asked, cost)
    return table
