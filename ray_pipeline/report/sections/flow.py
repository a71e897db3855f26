"""The flow figure: rows run down through the stages, peel off where they leave, join where made.

All widths are on one scale. The shapes are SVG that stretches to the page; the words beside them
are HTML, so that they stay readable on a phone. Only numbers are put into the SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ray_pipeline.rundir.account import StageAccount

#: Units of the drawing of one stage, across and down; it stretches both ways.
_WIDTH = 1000.0
_HEIGHT = 100.0
#: Width of what is there but too little to see.
_THINNEST = 4.0
#: How far rows that leave are carried to the right, and where down the drawing they end.
_ASIDE = 60.0
_END = 88.0
#: Between kept, dropped and failed rows once they part.
_APART = 9.0
#: Reasons that are named beside a stage.
_REASONS = 3


@dataclass(frozen=True)
class FlowRow:
    """One stage's drawing with its words."""

    account: StageAccount
    svg: Markup
    #: The most frequent reasons with their rows.
    reasons: list[tuple[str, int]]
    #: Reasons beyond those, and their rows.
    other_reasons: int
    other_rows: int


def flow(accounts: Sequence[StageAccount]) -> list[FlowRow]:
    """The drawings of the stages, all on one scale, each joined to the one above it."""
    widest = max((account.rows_in + account.created for account in accounts), default=0)
    # Room for what is carried aside, and for what has to be drawn thicker than it is.
    scale = (_WIDTH - _ASIDE - 2 * _APART - 3 * _THINNEST) / widest if widest else 0.0
    rows = []
    for account in accounts:
        ranked = sorted(account.reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        # A single one more is named: "1 more reason" would take as much room.
        named = _REASONS if len(ranked) > _REASONS + 1 else len(ranked)
        rest = ranked[named:]
        svg = _svg(account, scale)
        rows.append(FlowRow(account, svg, ranked[:named], len(rest), sum(n for _, n in rest)))
    return rows


def _svg(account: StageAccount, scale: float) -> Markup:
    came, made, kept, dropped, failed = (
        _width(rows, scale)
        for rows in (
            account.rows_in,
            account.created,
            account.kept,
            account.dropped,
            account.failed,
        )
    )
    shapes = []
    # What leaves does so from the right edge of what came in; the rest runs straight on.
    stays = max(0.0, came - dropped - failed)
    if kept:
        shapes.append(_band("kept", (0.0, stays), (0.0, kept), _HEIGHT))
    if made:
        shapes.append(_band("created", (stays, 0.0), (max(0.0, kept - made), made), _HEIGHT))
    x, to = stays, kept + _ASIDE
    for kind, width in (("dropped", dropped), ("failed", failed)):
        if width:
            shapes.append(_band(kind, (x, width), (to, width), _END))
            x, to = x + width, to + width + _APART
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(shapes)}</svg>'
    )


def _band(kind: str, above: tuple[float, float], below: tuple[float, float], bottom: float) -> str:
    """A band that bends from one place and width at the top to another."""
    (x, width), (to, end_width) = above, below
    middle = bottom / 2
    return (
        f'<path class="{kind}" d="M{x:.1f},0 C{x:.1f},{middle:g} {to:.1f},{middle:g} '
        f"{to:.1f},{bottom:g} H{to + end_width:.1f} C{to + end_width:.1f},{middle:g} "
        f'{x + width:.1f},{middle:g} {x + width:.1f},0 Z"/>'
    )


def _width(rows: int, scale: float) -> float:
    return max(rows * scale, _THINNEST) if rows else 0.0
