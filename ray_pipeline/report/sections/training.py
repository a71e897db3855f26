"""Trainings: what they were trained on, how they ended, and their learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ray_pipeline.core.numbers import finite
from ray_pipeline.report.drawing import Frame, band, curve, ends_of, plot, ring, thinned
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.trainings import Points, Training, trainings

#: Stages, named as in the ledger: the students, whose losses can be compared, and their rows.
DISTILLED, ALONE = "distil", "train-alone"
TOKENISE, SPLIT = "tokenise", "split"
#: Size of the charts beside the learning curve.
_SMALL: dict[str, Any] = {"width": 230.0, "height": 92.0}
_BESIDE = (
    ("loss", "loss: α·CE + β·T²·KL"),
    ("kl", "KL(teacher ‖ student)"),
    ("gradient_norm", "gradient norm"),
    ("learning_rate", "learning rate"),
)


@dataclass(frozen=True)
class Chart:
    """A drawing and what it shows."""

    label: str
    svg: Markup


@dataclass(frozen=True)
class LearningCurve:
    """One training over its steps."""

    stage: str
    is_finished: bool
    steps: int
    total_steps: int
    #: Cross-entropy in training and validation.
    main: Chart
    beside: list[Chart]
    has_validation: bool
    best: tuple[int, float] | None
    #: Steps whose mean is one point of the training curve.
    steps_a_point: int


@dataclass(frozen=True)
class Comparison:
    """The validation losses of both students."""

    svg: Markup
    distilled: float
    alone: float
    #: The teacher's at its end; None: it was not trained here.
    teacher: float | None


@dataclass(frozen=True)
class Truncation:
    """Answers that were cut to keep their texts within the limit of tokens."""

    rows: int
    answers: int
    tokens: int
    #: The limit, where the configuration names one.
    limit: int | None


@dataclass(frozen=True)
class Trainings:
    """The section."""

    #: Stages that are finished, with their figures.
    finished: list[tuple[str, dict[str, Any]]]
    curves: list[LearningCurve]
    comparison: Comparison | None
    truncation: Truncation | None
    #: Rows by what they are for; empty without such a stage.
    split: dict[str, int]


def read(reader: ReportReader) -> Trainings | None:
    """Read the trainings of a run; None where nothing was trained."""
    trained = trainings(reader)
    if not trained:
        return None
    accounts = {entry.account.name: entry.account for entry in reader.ledger.entries}
    split = accounts.get(SPLIT)
    counts = split.counts if split is not None else {}
    curves = [_learning_curve(training) for training in trained]
    return Trainings(
        finished=[
            (training.stage, _figures(training)) for training in trained if training.is_finished
        ],
        curves=[curve for curve in curves if curve is not None],
        comparison=_comparison(trained),
        truncation=_truncation(reader, accounts.get(TOKENISE)),
        split={name: counts[name] for name in ("train", "validation", "test") if name in counts},
    )


def _figures(training: Training) -> dict[str, Any]:
    """Numbers of the table's columns, None for what was not reported, and how it ended."""
    names = ("rows", "tokens", "answer_tokens", "real_token_share", "steps", "epochs", "best_step")
    losses = ("training_loss", "validation_loss")
    figures = {name: finite(training.figures.get(name)) for name in (*names, *losses)}
    return {**figures, "stopped": str(training.figures.get("stopped") or "")}


def _learning_curve(training: Training) -> LearningCurve | None:
    learned, validated = training.points("cross_entropy"), training.points("validation_loss")
    if not learned and not validated:
        return None
    points, spans, steps_a_point = thinned(learned)
    frame = Frame.around("step", [*points, *validated, *ends_of(spans)])
    best = min(validated, key=lambda point: (point[1], point[0]), default=None)
    shapes = [
        band(frame, "learned", spans),
        curve(frame, "learned", points),
        curve(frame, "validated", validated, "marked"),
        ring(frame, "validated", best) if best is not None else "",
    ]
    return LearningCurve(
        stage=training.stage,
        is_finished=training.is_finished,
        steps=training.steps,
        total_steps=training.total_steps,
        main=Chart("cross-entropy, nats per answer token", plot(frame, *shapes)),
        beside=list(_beside(training)),
        has_validation=bool(validated),
        best=best,
        steps_a_point=steps_a_point,
    )


def _beside(training: Training) -> Iterable[Chart]:
    """Small charts of what else was measured at each step, where it says anything."""
    is_distilled = any(value for _, value in training.points("kl"))
    for name, label in _BESIDE:
        points = training.points(name)
        # Without a teacher the loss is the cross-entropy, which has its own figure.
        if len(points) < 2 or (name in ("loss", "kl") and not is_distilled):
            continue
        means, spans, _ = thinned(points)
        from_zero = name in ("gradient_norm", "learning_rate")
        frame = Frame.around("step", [*means, *ends_of(spans)], from_zero, **_SMALL)
        shapes = band(frame, "plain", spans), curve(frame, "plain", means)
        yield Chart(label, plot(frame, *shapes))


def _comparison(trained: Sequence[Training]) -> Comparison | None:
    """Both students' validation losses on one axis.

    They are cross-entropies of the same rows, whatever the losses that are trained on.
    """
    by_stage = {training.stage: training for training in trained}
    if not {DISTILLED, ALONE} <= set(by_stage):
        return None
    distilled, alone = (by_stage[name].points("validation_loss") for name in (DISTILLED, ALONE))
    # Two points say no more than the table.
    if not distilled or not alone or len(distilled) + len(alone) < 3:
        return None
    frame = Frame.around("step", [*distilled, *alone])
    teacher = by_stage.get("train-teacher")
    return Comparison(
        svg=plot(
            frame,
            curve(frame, "control", alone, "marked"),
            curve(frame, "distilled", distilled, "marked"),
        ),
        distilled=_lowest(distilled),
        alone=_lowest(alone),
        teacher=finite(teacher.figures.get("validation_loss")) if teacher is not None else None,
    )


def _lowest(points: Points) -> float:
    return min(value for _, value in points)


def _truncation(reader: ReportReader, account: StageAccount | None) -> Truncation | None:
    if account is None:
        return None
    stages = reader.config.get("stages")
    config: Any = stages.get(TOKENISE) if isinstance(stages, dict) else None
    text: Any = config.get("text") if isinstance(config, dict) else None
    limit = text.get("max_tokens") if isinstance(text, dict) else None
    # A counter that stayed at 0 is not in the ledger.
    return Truncation(
        rows=account.kept,
        answers=account.counts.get("answers_cut", 0),
        tokens=account.counts.get("tokens_cut", 0),
        limit=limit if isinstance(limit, int) else None,
    )


SECTION = Section("training", "Training", "training.html.j2", read)
