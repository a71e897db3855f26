"""The search for hyper-parameters: the loss of every trial, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import quantiles
from typing import Any

from markupsafe import Markup

from ray_pipeline.core.text import figure, plain, share, shortened
from ray_pipeline.report.drawing.lines import Frame, Series, beyond, curve, level, line_chart
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.trainings import finite

#: The stage, named as in the ledger.
STAGE = "search"
#: What the history says of a trial besides its parameters.
_FACTS = ("trial", "loss", "lowest", "status", "parameters")
#: Trials that are listed, the best ones; characters of a parameter's value.
_LISTED, _VALUE = 30, 40
#: How many times as far above the best loss as the upper quartile the axis reaches.
_REACH = 4.0


@dataclass(frozen=True)
class Trial:
    """One trial of the history."""

    number: int
    #: The lowest validation loss; None: it has none, because it diverged or failed.
    loss: float | None
    status: str
    parameters: Mapping[str, Any]

    @property
    def is_pruned(self) -> bool:
        """Whether it was stopped before its end, because others were better."""
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
    #: Trials without a loss.
    failed: int
    #: Trials whose loss lies above the axis.
    beyond: int
    #: Whether the loss of the values that are configured is known.
    has_default: bool
    sentence: str
    parameters: list[str]
    #: The best trials, the best one first.
    ranked: list[TrialLine]


def search(reader: RunReader) -> Search | None:
    """Read the search of a run; None where nothing was searched, or no trial has a loss."""
    figures = reader.made_by(STAGE) or {}
    history = figures.get("history")
    trials = _trials(history if isinstance(history, list) else [])
    known = [one for one in trials if one.loss is not None]
    if not known:
        return None
    default = default_loss(figures)
    ceiling = _ceiling(trials, default)
    return Search(
        svg=_svg(trials, default, ceiling),
        complete=sum(not one.is_pruned for one in known),
        pruned=sum(one.is_pruned for one in known),
        failed=len(trials) - len(known),
        beyond=sum((one.loss or 0.0) > ceiling for one in known),
        has_default=default is not None,
        sentence=_sentence(figures, known, default),
        parameters=(names := _parameters(trials)),
        ranked=_ranked(trials, names),
    )


def default_loss(figures: Mapping[str, Any]) -> float | None:
    """The loss of the values that are configured, which the search is to beat."""
    found = (finite(figures.get(name)) for name in ("default_loss", "configured_loss"))
    return next((loss for loss in found if loss is not None), None)


def best_parameters(figures: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the search found; empty where it does not say."""
    found = (figures.get(name) for name in ("best", "best_parameters"))
    return next((values for values in found if isinstance(values, dict)), {})


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
    shown = [(float(one.number), min(one.loss or 0.0, ceiling)) for one in known]
    defaults = [(0.0, default)] if default is not None else []
    frame = Frame.around("trial", [Series("", [*shown, *defaults])])
    complete, pruned = (
        [(float(t.number), t.loss or 0.0) for t in known if t.is_pruned is wanted]
        for wanted in (False, True)
    )
    lowest = list(accumulate(shown, lambda best, one: (one[0], min(best[1], one[1]))))
    return line_chart(
        frame,
        level(frame, "default", default) if default is not None else "",
        curve(frame, Series("best", [*lowest, (frame.x[1], lowest[-1][1])], "stairs")),
        *(
            beyond(frame, kind, x) if loss > ceiling else curve(frame, Series(kind, [(x, loss)]))
            for kind, points in (("pruned", pruned), ("trial", complete))
            for x, loss in points
        ),
    )


def _sentence(figures: Mapping[str, Any], known: Sequence[Trial], default: float | None) -> str:
    """What was found, and what it gained over what is configured."""
    winner = min(known, key=lambda one: (one.loss or 0.0, one.number))
    values = best_parameters(figures) or winner.parameters
    loss = finite(figures.get("best_loss"))
    loss = loss if loss is not None else winner.loss or 0.0
    text = f"The lowest validation loss is {figure(loss)}"
    if values:
        text += f", with {', '.join(f'{plain(n)} {_value(v)}' for n, v in values.items())}"
    if default is None:
        return f"{text}."
    if figure(loss) == figure(default):
        return f"{text}; the configured values give the same."
    change = share(abs(default - loss), default)
    which = "less" if loss < default else "more"
    return f"{text}: {change} {which} than the {figure(default)} of the configured values."


def _ranked(trials: Sequence[Trial], names: Sequence[str]) -> list[TrialLine]:
    known = [one for one in trials if one.loss is not None]
    known.sort(key=lambda one: (one.loss, one.number))
    return [
        TrialLine(one, figure(one.loss), [_value(one.parameters.get(name)) for name in names])
        for one in known[:_LISTED]
    ]


def _value(value: Any) -> str:
    number = finite(value)
    if number is not None:
        return figure(number) if number != int(number) else f"{number:,.0f}"
    return shortened(plain(value), _VALUE)
