"""The account: rows in and out of every stage, as a drawing and as a table.

In the drawing rows run down through the stages; those that leave branch off to the right, those
that a stage creates join there. All widths are on one scale. The shapes are SVG that stretches to
the page; the words beside them are HTML, so that they can be read on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ray_pipeline.report import drawing
from ray_pipeline.report.accounts import StageLine, Totals, stage_lines, totals
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.account import StageAccount

#: Units of the drawing of one stage, across and down; it stretches both ways.
_WIDTH, _HEIGHT = 1000.0, 100.0
#: Width of what is there but too little to see.
_THINNEST = 4.0
#: How far rows that leave are carried to the right, and where down the drawing they end.
_ASIDE, _END = 60.0, 88.0
#: Space between kept, dropped and failed rows below a stage.
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
    #: Number of further reasons, and their rows together.
    other_reasons: int
    other_rows: int


@dataclass(frozen=True)
class Account:
    """The section."""

    lines: list[StageLine]
    totals: Totals
    flow: list[FlowRow]
    #: Stages that make files out of the rows, which pass through unchanged: not in `flow`.
    artifact_stages: list[str]

    @property
    def has_reused(self) -> bool:
        """Whether any stage's rows were taken from an earlier run of the directory."""
        return any(line.entry.reused for line in self.lines)


def read(reader: ReportReader) -> Account:
    """Read the account; it has no lines before the first stage has committed anything."""
    lines = reader.once(stage_lines)
    accounts = [line.account for line in lines]
    artifact_stages = [account.name for account in accounts if _only_makes_files(reader, account)]
    return Account(
        lines=lines,
        totals=reader.once(totals),
        flow=flow([account for account in accounts if account.name not in artifact_stages]),
        artifact_stages=artifact_stages,
    )


def _only_makes_files(reader: ReportReader, account: StageAccount) -> bool:
    """Whether a stage made files, and its rows are those of the stage before it."""
    changes = account.created or account.dropped or account.failed
    return reader.made_by(account.name) is not None and not changes


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
    came = _width(account.rows_in, scale)
    created = _width(account.created, scale)
    kept = _width(account.kept, scale)
    dropped = _width(account.dropped, scale)
    failed = _width(account.failed, scale)
    shapes = []
    # Rows leave from the right edge of what came in; the others run straight on.
    stays = max(0.0, came - dropped - failed)
    if kept:
        shapes.append(drawing.ribbon("kept", (0.0, stays), (0.0, kept), _HEIGHT))
    if created:
        joined = (max(0.0, kept - created), created)
        shapes.append(drawing.ribbon("created", (stays, 0.0), joined, _HEIGHT))
    x, to = stays, kept + _ASIDE
    for kind, width in (("dropped", dropped), ("failed", failed)):
        if width:
            shapes.append(drawing.ribbon(kind, (x, width), (to, width), _END))
            x, to = x + width, to + width + _APART
    return drawing.svg(shapes, _WIDTH, _HEIGHT, "ribbons", stretches=True)


def _width(rows: int, scale: float) -> float:
    return max(rows * scale, _THINNEST) if rows else 0.0


SECTION = Section("account", "Account of all rows", "account.html.j2", read)
