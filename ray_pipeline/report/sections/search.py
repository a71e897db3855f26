"""The search for hyper-parameters: the loss of every trial, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import quantiles
from typing import Any

from markupsafe import Markup

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import figure, plain, share, shortened
from ray_pipeline.report.drawing import Frame, arrow_up, curve, level, plot
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

#: The stage, named as in the ledger; `stages.training.search` writes its figures.
STAGE = "search"
#: The stage that does the same for the student that is trained alone.
CONTROL = "search-alone"
#: What the history says of a trial besides its parameters.
_FACTS = ("trial", "status", "loss", "lowest")
#: Trials that are listed, the best ones; characters of a parameter's value.
_LISTED, _VALUE = 30, 40
#: The axis reaches this many times as far above the best loss as the upper quartile lies.
_REACH = 4.0


@dataclass(frozen=True)
class Trial:
    """One trial of the history."""

    number: int
    #: The lowest validation loss; None: the trial diverged.
    loss: float | None
    #: ``finished``, ``pruned`` or ``diverged``.
    status: str
    parameters: Mapping[str, Any]

    @property
    def is_pruned(self) -> bool:
        """Whether it was stopped before its end, because others were better."""
        return self.status == "pruned"


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
    #: Whether the loss of the configured values is known.
    has_configured: bool
    sentence: str
    parameters: list[str]
    #: The best trials, the best one first.
    ranked: list[TrialLine]
    #: How the student trained alone was tuned.
    control: str | None


def read(reader: ReportReader) -> Search | None:
    """Read the search of a run; None where nothing was searched, or every trial diverged."""
    figures = reader.made_by(STAGE) or {}
    trials = _trials(figures.get("history") or [])
    with_loss = [trial for trial in trials if trial.loss is not None]
    if not with_loss:
        return None
    configured = finite(figures["configured_loss"])
    ceiling = _ceiling(trials, configured)
    return Search(
        svg=_svg(trials, configured, ceiling),
        complete=sum(not trial.is_pruned for trial in with_loss),
        pruned=sum(trial.is_pruned for trial in with_loss),
        failed=len(trials) - len(with_loss),
        beyond=sum((trial.loss or 0.0) > ceiling for trial in with_loss),
        has_configured=configured is not None,
        sentence=_sentence(figures["best_loss"], figures["best_parameters"], configured),
        parameters=(names := _parameters(trials)),
        ranked=_ranked(with_loss, names),
        control=_control(reader, len(trials)),
    )


def _control(reader: ReportReader, trials: int) -> str | None:
    """How the control was tuned, in a sentence; None in a job without one."""
    if reader.made_by("train-alone") is None:
        return None
    figures = reader.made_by(CONTROL) or {}
    if not figures.get("history"):
        return (
            "The student that is trained alone had no search of its own, so the comparison with it "
            "favours distillation."
        )
    number = len(figures["history"])
    same = "as many trials" if number == trials else f"{number:,} trials"
    found = _sentence(
        figures["best_loss"], figures["best_parameters"], finite(figures["configured_loss"])
    )
    return f"The student that is trained alone got {same} for its learning rate. {found}"


def _trials(history: Sequence[Mapping[str, Any]]) -> list[Trial]:
    trials = [
        Trial(
            number=int(line["trial"]),
            loss=finite(line["loss"]),
            status=plain(line["status"]),
            parameters={name: value for name, value in line.items() if name not in _FACTS},
        )
        for line in history
    ]
    return sorted(trials, key=lambda trial: trial.number)


def _parameters(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.parameters))


def _ceiling(trials: Sequence[Trial], configured: float | None) -> float:
    """The highest loss on the axis: one trial that diverged must not flatten all others."""
    losses = sorted(trial.loss for trial in trials if trial.loss is not None)
    upper = quantiles(losses, n=4)[2] if len(losses) > 1 else losses[0]
    reach = losses[0] + _REACH * (upper - losses[0])
    within = [loss for loss in losses if loss <= reach]
    return max([*within, losses[0] if configured is None else configured])


def _svg(trials: Sequence[Trial], configured: float | None, ceiling: float) -> Markup:
    marks = [
        ("pruned" if trial.is_pruned else "trial", float(trial.number), trial.loss)
        for trial in sorted(trials, key=lambda trial: not trial.is_pruned)
        if trial.loss is not None
    ]
    shown = sorted((x, min(loss, ceiling)) for _, x, loss in marks)
    frame = Frame.around("trial", shown if configured is None else [*shown, (0.0, configured)])
    lowest = list(accumulate(shown, lambda best, point: (point[0], min(best[1], point[1]))))
    return plot(
        frame,
        level(frame, "default", configured) if configured is not None else "",
        curve(frame, "best", [*lowest, (frame.x.high, lowest[-1][1])], "stairs"),
        *(
            arrow_up(frame, kind, x) if loss > ceiling else curve(frame, kind, [(x, loss)])
            for kind, x, loss in marks
        ),
    )


def _sentence(loss: float, parameters: Mapping[str, Any], configured: float | None) -> str:
    """What was found, and what it gained over the configured values."""
    values = ", ".join(f"{plain(name)} {_value(value)}" for name, value in parameters.items())
    text = f"The lowest validation loss is {figure(loss)}, with {values}"
    if configured is None:
        return f"{text}."
    if figure(loss) == figure(configured):
        return f"{text}; the configured values give the same."
    change = share(abs(configured - loss), configured)
    which = "less" if loss < configured else "more"
    return f"{text}: {change} {which} than the {figure(configured)} of the configured values."


def _ranked(trials: Sequence[Trial], names: Sequence[str]) -> list[TrialLine]:
    ranked = sorted(trials, key=lambda trial: (trial.loss or 0.0, trial.number))
    return [
        TrialLine(trial, figure(trial.loss), [_value(trial.parameters.get(name)) for name in names])
        for trial in ranked[:_LISTED]
    ]


def _value(value: Any) -> str:
    number = finite(value)
    if number is not None:
        return figure(number) if number != int(number) else f"{number:,.0f}"
    return shortened(plain(value), _VALUE)


SECTION = Section("search", "Search for hyper-parameters", "search.html.j2", read)
