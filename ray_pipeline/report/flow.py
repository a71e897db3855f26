"""The flow figure: one bar a stage, as wide as its rows, narrowing by what left.

The bars are SVG that stretches to the page; the words beside them are HTML, so that they stay
readable on a phone. Only numbers are put into the SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ray_pipeline.engine.account import StageAccount

#: Units of the drawing across; heights are pixels.
_WIDTH = 1000.0
_BAR = 22
_GAP = 16
#: Width of what is there but too little to see.
_THINNEST = 3.0


@dataclass(frozen=True)
class FlowRow:
    """One stage's bar with its numbers."""

    account: StageAccount
    svg: Markup


def flow(accounts: Sequence[StageAccount]) -> list[FlowRow]:
    """The bars of the stages, all on one scale, each joined to the one above it."""
    widest = max((account.rows_in + account.created for account in accounts), default=0)
    # Room for what has to be drawn thicker than it is.
    scale = (_WIDTH - 2 * _THINNEST) / widest if widest else 0.0
    rows = []
    before: StageAccount | None = None
    for account in accounts:
        rows.append(FlowRow(account, _svg(account, before, scale)))
        before = account
    return rows


def _svg(account: StageAccount, before: StageAccount | None, scale: float) -> Markup:
    shapes = []
    top = 0
    if before is not None:
        top = _GAP
        shapes.append(_funnel(_width(before.kept, scale), _width(account.rows_in, scale)))
    x = 0.0
    for kind in ("kept", "dropped", "failed"):
        if width := _width(getattr(account, kind), scale):
            shapes.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}"/>'
            )
        x += width
    height = top + _BAR
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH:g} {height}" height="{height}" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(shapes)}</svg>'
    )


def _funnel(above: float, below: float) -> str:
    return f'<polygon class="funnel" points="0,0 {above:.1f},0 {below:.1f},{_GAP} 0,{_GAP}"/>'


def _width(rows: int, scale: float) -> float:
    return max(rows * scale, _THINNEST) if rows else 0.0
