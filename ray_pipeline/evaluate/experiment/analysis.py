"""From the cells of an experiment to its answer: is less, better data enough?

Everything here is pure: records in, plain data out. Losses are in nats per token of the common
test rows. Each mode is analysed alone: trainings of ``epochs`` and ``tokens`` are never compared
with each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Cell, Group, Point, groups
from ray_pipeline.evaluate.experiment.effort import EQUAL_MODE, effort, not_compared
from ray_pipeline.evaluate.experiment.learning_curves import (
    Reached,
    common_loss,
    mean_curve,
    reached,
)
from ray_pipeline.evaluate.experiment.orderings import RowScores, by_orderings
from ray_pipeline.evaluate.experiment.random_controls import against_random
from ray_pipeline.evaluate.experiment.scaling_law import NoLaw, ScalingLaw, fit
from ray_pipeline.evaluate.experiment.sentences import recommendations
from ray_pipeline.evaluate.experiment.threshold import by_intervals, by_rule
from ray_pipeline.evaluate.statistics import CONFIDENCE, Estimate, estimate, perplexity_of
from ray_pipeline.rundir.layout import control_name, is_ordering

#: Modes in the order in which they are reported.
MODES = ("epochs", "tokens")
#: Points of a mean learning curve at most.
_CURVE = 80


@dataclass(frozen=True)
class Question:
    """The parameters of an analysis.

    Attributes:
        vocabulary: number of tokens that an untrained model chooses from.
        target: perplexity to which time and tokens are measured; None: the lowest that all cells of
            a mode reach.
        better_by: fraction by which a perplexity must be lower to count as better; 10% in the
            original experiment.
        confidence: of all intervals.
        resamples: of the scaling law's bootstrap.
        seed: of the bootstrap.
    """

    vocabulary: int
    target: float | None = None
    better_by: float = 0.1
    confidence: float = CONFIDENCE
    resamples: int = 200
    seed: int = 0


def analyse(
    cells: Sequence[Cell], question: Question, scores: RowScores | None = None
) -> dict[str, Any]:
    """Analyse an experiment.

    Args:
        cells: in any order.
        question: the parameters.
        scores: of the rows; only for an experiment that compares orderings.

    Returns:
        Plain data, the content of ``analysis.json``.
        See ``docs/jobs/quality-tradeoff/analysis.md``.

    Raises:
        ValueError: the cells cannot be compared; the message says why.
    """
    _check_comparable(cells)
    of_orderings = [cell for cell in cells if is_ordering(cell.subset)]
    own = [cell for cell in cells if not is_ordering(cell.subset)]
    modes = [*MODES, *sorted({cell.mode for cell in own} - set(MODES))]
    return {
        "cells": len(cells),
        "confidence": question.confidence,
        "vocabulary": question.vocabulary,
        "better_by": question.better_by,
        "excluded": [
            {"cell": cell.name, "subset": cell.subset, "seed": cell.seed, "why": _why(cell)}
            for cell in cells
            if cell.diverged
        ],
        "modes": {
            mode: _mode(of_mode, question)
            for mode in modes
            if (of_mode := [cell for cell in own if cell.mode == mode])
        },
        **_orderings(own, of_orderings, question, scores),
    }


def _orderings(
    own: Sequence[Cell],
    of_orderings: Sequence[Cell],
    question: Question,
    scores: RowScores | None,
) -> dict[str, Any]:
    """The comparison of orderings, under its name; nothing where there are none."""
    every = groups(own, EQUAL_MODE)
    subset = next((group for group in every if not group.first.control), None)
    if scores is None or subset is None or not of_orderings:
        return {}
    controls = [g for g in every if g.first.control and g.first.of == subset.first.subset]
    compared = [subset, *controls, *groups(of_orderings, EQUAL_MODE)]
    return {"orderings": by_orderings(compared, scores, question.confidence)}


def _check_comparable(cells: Sequence[Cell]) -> None:
    if not cells:
        raise ValueError("there are no cells to analyse")
    measured = {cell.test_tokens or 0 for cell in cells if not cell.diverged}
    if len(measured) > 1:
        raise ValueError(
            "cells were measured on different test rows (of "
            f"{' and '.join(f'{tokens:,}' for tokens in sorted(measured))} tokens), so their "
            "losses cannot be compared"
        )
    names = [(cell.subset, cell.mode, cell.seed, cell.learning_rate) for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"there are two records of {twice[0]}, mode {twice[1]}, seed {twice[2]}")


def _why(cell: Cell) -> str:
    if cell.validation_loss is None:
        return "its validation loss is no finite number"
    return "its test loss is no finite number"


def _mode(cells: Sequence[Cell], question: Question) -> dict[str, Any]:
    mode = cells[0].mode
    every = groups(cells, mode)
    target = _target(every, question)
    subsets = [group for group in every if not group.first.control]
    controls = [group for group in every if group.first.control]
    rule = by_rule(subsets, question.better_by)
    enough = by_intervals(subsets, question.better_by, question.confidence)
    compared = against_random(subsets, controls, question.confidence)
    laws = {name: _law(of, question) for name, of in (("subsets", subsets), ("controls", controls))}
    return {
        "target": target,
        "subsets": [_figures(group, target, question) for group in every],
        "controls": compared,
        "threshold": {"rule": rule, "intervals": enough},
        "scaling": {name: law.to_json() for name, law in laws.items()},
        "notes": list(dict.fromkeys(_notes(cells, every))),
        "recommendation": recommendations(
            subsets, rule, enough, compared, question.better_by, question.confidence
        ),
    }


def _law(of: Sequence[Group], question: Question) -> ScalingLaw | NoLaw:
    """The scaling law of trainings that may be compared with each other."""
    reasons = (not_compared(group, of[0]) for group in of[1:])
    if why := next((reason for reason in reasons if reason is not None), None):
        return NoLaw(f"the trainings are not compared: {why}")
    return fit(_sizes(of), question.resamples, question.seed)


def _target(every: Sequence[Group], question: Question) -> dict[str, Any]:
    """The perplexity to which time is measured, and where it is from."""
    if question.target is not None:
        return {"perplexity": question.target, "from": "configuration"}
    loss = common_loss(cell.curve for group in every for cell in group.cells)
    return {"perplexity": None if loss is None else perplexity_of(loss), "from": "all cells"}


def _figures(group: Group, target: Mapping[str, Any], question: Question) -> dict[str, Any]:
    """All figures of one subset or control."""
    first, cells = group.first, group.cells

    def mean(value: Callable[[Cell], float]) -> dict[str, Any]:
        return estimate([value(cell) for cell in cells], question.confidence).to_json()

    loss = estimate(list(group.losses.values()), question.confidence)
    perplexity = perplexity_of(loss.mean)
    gain = math.log(question.vocabulary) - loss.mean
    seen = math.fsum(cell.tokens_seen for cell in cells) / len(cells)
    return {
        "subset": first.subset,
        "of": first.of,
        "control": first.control,
        "rows": first.rows,
        "tokens": first.tokens,
        "tokens_seen": seen,
        "effort": effort(group),
        "seeds": sorted(group.losses),
        "diverged_seeds": list(group.lost),
        "learning_rate": first.learning_rate,
        "learning_rates_tried": list(group.tried),
        "loss": loss.to_json(),
        "perplexity": loss.mapped(perplexity_of).to_json(),
        "gain": gain,
        "gain_per_1000_rows": 1000 * gain / first.rows if first.rows else None,
        "gain_per_million_tokens": 1e6 * gain / first.tokens if first.tokens else None,
        "gain_per_million_tokens_seen": 1e6 * gain / seen if seen else None,
        "performance_per_sample": _inverse(perplexity * first.rows),
        "performance_per_token": _inverse(perplexity * first.tokens),
        "seconds": mean(lambda cell: cell.seconds),
        "seconds_per_row": _share(mean(lambda cell: cell.seconds)["mean"], first.rows),
        "tokens_per_second": mean(lambda cell: _share(cell.tokens_seen, cell.seconds) or 0.0),
        "to_target": _to_target(cells, target["perplexity"], question.confidence),
        "curve": _curve(cells),
    }


def _inverse(value: float) -> float | None:
    return _share(1.0, value)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _to_target(cells: Sequence[Cell], target: float | None, confidence: float) -> dict[str, Any]:
    """Time and tokens to the target; null unless every seed reaches it.

    A mean over the seeds that reach it would favour a subset whose slow seeds fail.
    """
    points = [reached(cell.curve, math.log(target)) for cell in cells] if target else []
    there = [point for point in points if point is not None]

    def mean(value: Callable[[Reached], float]) -> Estimate | None:
        all_there = bool(there) and len(there) == len(cells)
        return estimate([value(point) for point in there], confidence) if all_there else None

    seconds, tokens = mean(lambda point: point.seconds), mean(lambda point: point.tokens)
    return {
        "reached": len(there),
        "seeds": len(cells),
        "at_most": any(point.at_most for point in there),
        "seconds": None if seconds is None else seconds.to_json(),
        "tokens": None if tokens is None else tokens.to_json(),
    }


def _curve(cells: Sequence[Cell]) -> list[dict[str, float]]:
    points: Sequence[Point] = mean_curve([cell.curve for cell in cells])
    every = -(-len(points) // _CURVE) or 1
    # The last point is always among them.
    kept = points[::-1][::every][::-1]
    return [{"tokens": p.tokens, "seconds": p.seconds, "loss": p.loss} for p in kept]


def _sizes(of: Iterable[Group]) -> dict[int, list[tuple[float, float]]]:
    """Tokens and loss of each training, by seed. Several draws of one size have its mean tokens."""
    of_rows: dict[int, list[Group]] = {}
    for group in of:
        of_rows.setdefault(group.first.rows, []).append(group)
    points: dict[int, list[tuple[float, float]]] = {}
    for draws in of_rows.values():
        tokens = math.fsum(draw.first.tokens for draw in draws) / len(draws)
        for seed, loss in (pair for draw in draws for pair in draw.losses.items()):
            points.setdefault(seed, []).append((tokens, loss))
    return points


def _notes(cells: Sequence[Cell], every: Sequence[Group]) -> Iterator[str]:
    """What a reader must know beside the figures."""
    diverged = [cell for cell in cells if cell.diverged]
    if diverged:
        yield (
            f"{len(diverged)} of {len(cells)} trainings diverged and are left out: "
            + ", ".join(cell.name for cell in diverged)
        )
    there = {group.first.subset for group in every}
    for name in dict.fromkeys(cell.subset for cell in cells):
        if name not in there:
            yield f"{name}: every training diverged, so it has no figures"
    same = {cell.name: cell.trained_as or cell.name for cell in cells}
    trained = {(cell.subset, cell.seed, cell.learning_rate): same[cell.name] for cell in cells}
    for cell in cells:
        ours = trained.get((cell.of, cell.seed, cell.learning_rate))
        if cell.control and ours == same[cell.name]:
            yield f"{cell.of}: its control has the same rows, so there is nothing to compare"
    for group in every:
        if len(group.losses) == 1:
            yield f"{group.first.subset}: one seed, so its figures have no interval"
        if not group.first.control and control_name(group.first.subset) not in there:
            yield f"{group.first.subset}: no random control, so what quality does is not known"
