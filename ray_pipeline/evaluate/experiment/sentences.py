"""The conclusions of an experiment in sentences, none of which goes beyond the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Group
from ray_pipeline.evaluate.statistics import CONFIDENCE


def recommendations(
    subsets: Sequence[Group],
    rule: Mapping[str, Any],
    intervals: Mapping[str, Any],
    controls: Sequence[Mapping[str, Any]],
    better_by: float,
    confidence: float = CONFIDENCE,
) -> list[str]:
    """The conclusions in sentences.

    Args:
        subsets: the best quality first.
        rule: of `threshold.by_rule`.
        intervals: of `threshold.by_intervals`.
        controls: each subset against its random controls.
        better_by: the rule's share.
        confidence: of the intervals.
    """
    rows = {group.first.subset: group.first.rows for group in subsets}
    said = [_of_rule(rule, rows, better_by), *_of_intervals(intervals, rows, better_by, confidence)]
    return [*said, *_of_controls(controls, confidence)]


#: What the rule of the original experiment leaves out.
_OF_MEANS = "The rule looks at means alone: chance has no part in it."


def _of_rule(rule: Mapping[str, Any], rows: Mapping[str, int], better_by: float) -> str:
    unequal = [step for step in rule["steps"] if step["why"]]
    if unequal:
        pairs = "; ".join(f"{s['subset']} and {s['next']}: {s['why']}" for s in unequal)
        return f"By the rule there is no threshold: not compared are {pairs}."
    if rule["subset"] is None:
        return "There are not two subsets with figures, so there is no threshold."
    name = rule["subset"]
    steps = ", ".join(_step(step) for step in rule["steps"])
    if rule["is_largest"]:
        return (
            f"By the rule of {better_by:.0%}, quantity matters more than filtering: no subset's "
            f"perplexity is {better_by:.0%} below that of the next larger one ({steps}), so the "
            f"threshold is the largest, {name} ({rows[name]:,} rows). {_OF_MEANS}"
        )
    return (
        f"By the rule of {better_by:.0%}, the threshold is {name} ({rows[name]:,} rows): its "
        f"perplexity is more than {better_by:.0%} below that of the next larger subset ({steps}). "
        f"{_OF_MEANS}"
    )


def _step(step: Mapping[str, Any]) -> str:
    way = "below" if step["lower_by"] >= 0 else "above"
    return f"{step['subset']} {abs(step['lower_by']):.1%} {way} {step['next']}"


_VERDICTS = {
    "better": "is better than all {largest} rows",
    "enough": "is enough: surely less than {margin} worse than all {largest} rows",
    "worse": "is not enough: surely more than {margin} worse than all {largest} rows",
    "undecided": "is undecided: its interval spans {margin} worse; more seeds would narrow it",
    "unknown": "has no interval",
    "not compared": "is not compared",
}


def _of_intervals(
    intervals: Mapping[str, Any], rows: Mapping[str, int], better_by: float, confidence: float
) -> list[str]:
    said = []
    for one in intervals["comparisons"]:
        largest = f"{rows[one['against']]:,}"
        verdict = _VERDICTS[one["verdict"]].format(largest=largest, margin=f"{better_by:.0%}")
        why = f": {one['why']}" if one["why"] else ""
        said.append(f"{one['subset']} ({rows[one['subset']]:,} rows) {verdict}{why}{_range(one)}")
    if not said:
        return []
    found = intervals["subset"]
    end = (
        "so nothing can be recommended by them."
        if found is None
        else f"so the recommendation by them is {found} ({rows[found]:,} rows)."
    )
    known = sum(one["difference"] is not None for one in intervals["comparisons"])
    scope = (
        f" They carry the chance of the seeds, not that of which rows are in a subset and which "
        f"are tested on. {_correction(known, confidence)}"
    )
    return [f"By the intervals: {'; '.join(said)}; {end}{scope if known else ''}"]


def _correction(comparisons: int, confidence: float) -> str:
    """How several comparisons are kept from finding something by their number."""
    if comparisons < 2:
        return f"The interval has {100 * confidence:g}% confidence."
    return (
        f"Each interval has {100 * confidence:g}% confidence by itself; the verdicts are by "
        f"p-values with Holm's correction for {comparisons} comparisons."
    )


def _of_controls(controls: Sequence[Mapping[str, Any]], confidence: float) -> list[str]:
    words = {
        "helps": "helps",
        "hurts": "hurts",
        "undecided": "cannot be distinguished from chance",
        "unknown": "is not known to help: there is no control, or one seed",
        "not compared": "is not compared with them",
    }
    said = [
        f"at {one['rows']:,} rows it {words[one['verdict']]}"
        f"{': ' + one['why'] if one['why'] else ''}{_range(one)}"
        for one in controls
    ]
    if not said:
        return []
    return [
        f"Selecting by quality, compared with equally many random rows: {'; '.join(said)}.",
        *_of_chance(controls, confidence),
        *_of_effort(controls),
    ]


def _of_chance(controls: Sequence[Mapping[str, Any]], confidence: float) -> list[str]:
    """Which chances the intervals against random rows carry, and which they do not."""
    known = [one for one in controls if one["covers"]]
    if not known:
        return []
    seeds = _at([one for one in known if "seeds" in one["covers"]], known)
    several = _at([one for one in known if one["draws"] > 1], known)
    single = _at([one for one in known if one["draws"] == 1], known)
    parts = []
    if seeds is not None:
        parts.append(f"the chance of the seeds (weights, order of rows, dropout){seeds}")
    if several is not None:
        parts.append(f"the chance of which random rows are drawn{several}")
    missing = ["that of which rows are tested on"]
    if single is not None:
        missing.insert(0, f"that of which random rows are drawn{single}, where there is one draw")
    return [
        f"These intervals carry {' and '.join(parts)}. They do not carry {', nor '.join(missing)}. "
        f"{_correction(known[0]['comparisons'], confidence)}"
    ]


def _at(some: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> str | None:
    """The sizes of some comparisons, as `` at 10 and 20 rows``; empty for all, None for none."""
    if not some:
        return None
    *sizes, last = [f"{one['rows']:,}" for one in some]
    if len(some) == len(known):
        return ""
    return f" at {', '.join(sizes)} and {last} rows" if sizes else f" at {last} rows"


def _of_effort(controls: Sequence[Mapping[str, Any]]) -> list[str]:
    """What besides the rows differs between the subsets and their controls."""
    unequal = [one for one in controls if one["differs"] and not one["why"]]
    if not unequal:
        return []
    said = [f"at {one['rows']:,} rows {', '.join(one['differs'])}" for one in unequal]
    return [f"Best against random rows differ in more than the rows: {'; '.join(said)}."]


def _range(one: Mapping[str, Any]) -> str:
    difference = one["difference"]
    if difference is None:
        return ""
    if difference["low"] is None:
        return f" (difference of loss {difference['mean']:+.3f})"
    draws = f"; {one['draws']} random draws" if one.get("draws", 1) > 1 else ""
    p = one.get("p_adjusted")
    corrected = f"; p {_probability(p)}" if isinstance(p, float) else ""
    return (
        f" (difference of loss {difference['mean']:+.3f}, {difference['low']:+.3f} to "
        f"{difference['high']:+.3f}{draws}{corrected})"
    )


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
