"""Trainings: what they were trained on, how they ended, and their learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ray_pipeline.report.drawing.lines import Frame, Series, band, curve, line_chart, ring, thinned
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.trainings import Points, Training, finite, trainings

#: Stages, named as in the ledger: the students, whose losses can be compared, and their rows.
DISTILLED, ALONE = "distil", "train-alone"
TOKENISE, SPLIT = "tokenise", "split"
#: Size of the figures that stand beside the learning curve.
_SMALL: dict[str, Any] = {"width": 230.0, "height": 92.0}
_BESIDE = (
    ("loss", "loss: α·CE + β·T²·KL"),
    ("kl", "KL(teacher ‖ student)"),
    ("gradient_norm", "gradient norm"),
    ("learning_rate", "learning rate"),
)


@dataclass(frozen=True)
class Figure:
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
    main: Figure
    beside: list[Figure]
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
    #: The teacher's, as it ended; None: it was not trained here.
    teacher: float | None


@dataclass(frozen=True)
class Truncation:
    """Answers that lost their end to the limit of tokens."""

    rows: int
    answers: int
    tokens: int
    #: The limit, where the configuration names one.
    limit: int | None


@dataclass(frozen=True)
class TrainingSection:
    """The section."""

    #: Stages that are finished, with their figures.
    finished: list[tuple[str, dict[str, Any]]]
    curves: list[LearningCurve]
    comparison: Comparison | None
    truncation: Truncation | None
    #: Rows by what they are for; empty without such a stage.
    split: dict[str, int]


def training_section(reader: RunReader) -> TrainingSection | None:
    """Read the trainings of a run; None where nothing was trained."""
    found = trainings(reader)
    if not found:
        return None
    accounts = {entry.account.name: entry.account for entry in reader.ledger.entries}
    split = accounts.get(SPLIT)
    counts = split.counts if split is not None else {}
    return TrainingSection(
        finished=[(one.stage, _figures(one)) for one in found if one.is_finished],
        curves=[drawn for one in found if (drawn := _learning_curve(one)) is not None],
        comparison=_comparison(found),
        truncation=_truncation(reader, accounts.get(TOKENISE)),
        split={name: counts[name] for name in ("train", "validation", "test") if name in counts},
    )


def _figures(training: Training) -> dict[str, Any]:
    """Numbers of the table's columns, None for what was not reported, and how it ended."""
    names = ("rows", "tokens", "answer_tokens", "real_token_share", "steps", "epochs", "best_step")
    found = {name: finite(training.figures.get(name)) for name in (*names, "validation_loss")}
    return {**found, "stopped": str(training.figures.get("stopped") or "")}


def _learning_curve(training: Training) -> LearningCurve | None:
    learned, validated = training.points("cross_entropy"), training.points("validation_loss")
    if not learned and not validated:
        return None
    points, spans, steps_a_point = thinned(learned)
    frame = Frame.around("step", [Series("", [*points, *validated]), *_edges(spans)])
    best = min(validated, key=lambda point: (point[1], point[0]), default=None)
    shapes = [
        band(frame, "learned", spans),
        curve(frame, Series("learned", points)),
        curve(frame, Series("validated", validated, "marked")),
        ring(frame, "validated", best) if best is not None else "",
    ]
    return LearningCurve(
        stage=training.stage,
        is_finished=training.is_finished,
        steps=training.steps,
        total_steps=training.total_steps,
        main=Figure("cross-entropy, nats per answer token", line_chart(frame, *shapes)),
        beside=list(_beside(training)),
        has_validation=bool(validated),
        best=best,
        steps_a_point=steps_a_point,
    )


def _beside(training: Training) -> Iterable[Figure]:
    """Small figures of what else was measured at each step; none of what says nothing."""
    is_distilled = any(value for _, value in training.points("kl"))
    for name, label in _BESIDE:
        points = training.points(name)
        # Without a teacher the loss is the cross-entropy, which has its own figure.
        if len(points) < 2 or (name in ("loss", "kl") and not is_distilled):
            continue
        means, spans, _ = thinned(points)
        from_zero = name in ("gradient_norm", "learning_rate")
        series = Series("plain", means)
        frame = Frame.around("step", [series, *_edges(spans)], from_zero, **_SMALL)
        yield Figure(label, line_chart(frame, band(frame, "plain", spans), curve(frame, series)))


def _edges(spans: Sequence[tuple[float, float, float]]) -> list[Series]:
    """What lies behind means, for a frame that has room for it."""
    return [Series("", [(x, y) for x, *ys in spans for y in ys])]


def _comparison(found: Sequence[Training]) -> Comparison | None:
    """Both students' validation losses on one axis.

    They are cross-entropies of the same rows, whatever the losses that are trained on.
    """
    by_stage = {one.stage: one for one in found}
    if not {DISTILLED, ALONE} <= set(by_stage):
        return None
    distilled, alone = (by_stage[name].points("validation_loss") for name in (DISTILLED, ALONE))
    # Two points say no more than the table.
    if not distilled or not alone or len(distilled) + len(alone) < 3:
        return None
    series = [Series("control", alone, "marked"), Series("distilled", distilled, "marked")]
    frame = Frame.around("step", series)
    teacher = by_stage.get("train-teacher")
    return Comparison(
        svg=line_chart(frame, *(curve(frame, one) for one in series)),
        distilled=_lowest(distilled),
        alone=_lowest(alone),
        teacher=finite(teacher.figures.get("validation_loss")) if teacher is not None else None,
    )


def _lowest(points: Points) -> float:
    return min(value for _, value in points)


def _truncation(reader: RunReader, account: StageAccount | None) -> Truncation | None:
    if account is None:
        return None
    stages = reader.config.get("stages")
    config: Any = stages.get(TOKENISE) if isinstance(stages, dict) else None
    text: Any = config.get("text") if isinstance(config, dict) else None
    limit = text.get("max_tokens") if isinstance(text, dict) else None
    # A counter that stayed at nothing is not in the ledger.
    return Truncation(
        rows=account.kept,
        answers=account.counts.get("answers_cut", 0),
        tokens=account.counts.get("tokens_cut", 0),
        limit=limit if isinstance(limit, int) else None,
    )
