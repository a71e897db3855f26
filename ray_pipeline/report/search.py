"""The search for hyper-parameters: the loss of every trial, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from markupsafe import Markup

from ray_pipeline.report.formats import figure, plain, share, shortened
from ray_pipeline.report.line_charts import Frame, Series, beyond, curve, level, line_chart
from ray_pipeline.run_reader import RunReader
from ray_pipeline.run_trainings import finite

#: The stage, named as in the ledger.
STAGE = "search"
#: What the history says of a trial besides its parameters.
_FACTS = ("trial", "loss", "status")
#: Trials that are listed, the best ones; characters of a parameter's value.
_LISTED, _VALUE = 30, 40
#: How many times as far above the best loss as the upper quartile the axis reaches.
_REACH = 4.0


@dataclass(frozen=True)
class Trial:
    """One trial of the history."""

    number: int
    #: None: it has none, because it failed.
    loss: float | None
    status: str
    parameters: Mapping[str, Any]

    @property
    def is_pruned(self) -> bool:
        """Whether it was stopped early, so that its loss is not its last one."""
        return self.status.lower().startswith(("prun", "stop"))


@dataclass(frozen=True)
class TrialLine:
    """A trial's line of the table."""

    trial: Trial
    loss: str
    values: list[str]


@dataclass(frozen=True)
class Search:
    """The section."""

    svg: Markup
    complete: int
    pruned: int
    failed: int
    #: Trials whose loss lies above the axis.
    beyond: int
    has_default: bool
    sentence: str
    parameters: list[str]
    #: The best trials, those that were not pruned first.
    ranked: list[TrialLine]


def search(reader: RunReader) -> Search | None:
    """Read the search of a run; None where nothing was searched, or no trial has a loss."""
    figures = reader.made_by(STAGE) or {}
    history = figures.get("history")
    trials = _trials(history if isinstance(history, list) else [])
    complete = [one for one in trials if one.loss is not None and not one.is_pruned]
    if not complete:
        return None
    default = finite(figures.get("default_loss"))
    ceiling = _ceiling(trials, default)
    return Search(
        svg=_svg(trials, default, ceiling),
        complete=len(complete),
        pruned=sum(one.is_pruned for one in trials),
        failed=sum(one.loss is None and not one.is_pruned for one in trials),
        beyond=sum(one.loss is not None and one.loss > ceiling for one in trials),
        has_default=default is not None,
        sentence=_sentence(figures, complete, default),
        parameters=(names := _parameters(trials)),
        ranked=_ranked(trials, names),
    )


def _trials(history: Sequence[Any]) -> list[Trial]:
    found = []
    for place, one in enumerate(history):
        if not isinstance(one, dict):
            continue
        nested = one.get("parameters")
        parameters = nested if isinstance(nested, dict) else one
        number = finite(one.get("trial"))
        found.append(
            Trial(
                number=int(number) if number is not None else place,
                loss=finite(one.get("loss")),
                status=plain(one.get("status") or ""),
                parameters={n: v for n, v in parameters.items() if n not in _FACTS},
            )
        )
    return sorted(found, key=lambda trial: trial.number)


def _parameters(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.parameters))


def _ceiling(trials: Sequence[Trial], default: float | None) -> float:
    """The highest loss on the axis: one trial that diverged must not flatten all others."""
    losses = sorted(one.loss for one in trials if one.loss is not None)
    upper = quantiles(losses, n=4)[2] if len(losses) > 1 else losses[0]
    reach = losses[0] + _REACH * (upper - losses[0])
    within = [loss for loss in losses if loss <= reach]
    return max([*within, losses[0] if default is None else default])


def _svg(trials: Sequence[Trial], default: float | None, ceiling: float) -> Markup:
    known = [one for one in trials if one.loss is not None]
    shown = [(one.number, min(one.loss or 0.0, ceiling)) for one in known]
    defaults = [(0.0, default)] if default is not None else []
    frame = Frame.around("trial", [Series("", [*shown, *defaults])])
    complete, pruned = (
        [(float(t.number), t.loss or 0.0) for t in known if t.is_pruned is wanted]
        for wanted in (False, True)
    )
    best = [(x, min(loss for at, loss in complete if at <= x)) for x, _ in complete]
    best.append((frame.x[1], best[-1][1]))
    return line_chart(
        frame,
        level(frame, "default", default) if default is not None else "",
        curve(frame, Series("best", best, "stairs")),
        *(
            beyond(frame, kind, x) if loss > ceiling else curve(frame, Series(kind, [(x, loss)]))
            for kind, points in (("pruned", pruned), ("trial", complete))
            for x, loss in points
        ),
    )


def _sentence(figures: Mapping[str, Any], complete: Sequence[Trial], default: float | None) -> str:
    """What was found, and what it gained over the defaults."""
    winner = min(complete, key=lambda one: (one.loss or 0.0, one.number))
    reported = figures.get("best")
    values = reported if isinstance(reported, dict) else winner.parameters
    loss = finite(figures.get("best_loss"))
    loss = loss if loss is not None else winner.loss or 0.0
    text = f"The lowest validation loss is {figure(loss)}"
    if values:
        text += f", with {', '.join(f'{plain(n)} {_value(v)}' for n, v in values.items())}"
    if default is None:
        return f"{text}."
    if figure(loss) == figure(default):
        return f"{text}; the defaults give the same."
    change = share(abs(default - loss), default)
    which = "less" if loss < default else "more"
    return f"{text}: {change} {which} than the {figure(default)} of the defaults."


def _ranked(trials: Sequence[Trial], names: Sequence[str]) -> list[TrialLine]:
    known = [one for one in trials if one.loss is not None]
    known.sort(key=lambda one: (one.is_pruned, one.loss, one.number))
    return [
        TrialLine(one, figure(one.loss), [_value(one.parameters.get(name)) for name in names])
        for one in known[:_LISTED]
    ]


def _value(value: Any) -> str:
    number = finite(value)
    if number is not None:
        return figure(number) if number != int(number) else f"{number:,.0f}"
    return shortened(plain(value), _VALUE)
