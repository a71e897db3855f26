"""Quality against quantity: what subsets of the data are worth, and what their models write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from markupsafe import Markup

from ray_pipeline.core.text import NONE, count, duration, figure, large, plain
from ray_pipeline.report.drawing.lines import Frame, Series, curve, error_bar, level, line_chart
from ray_pipeline.report.sections.completions import Completions, completions
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.trainings import finite

#: The stage, named as in the ledger, and the file that it leaves.
STAGE, ANALYSIS = "analyse", "experiment/analysis.json"
_TITLES = {
    "epochs": "Each subset with its own number of epochs",
    "tokens": "One budget of tokens for all",
}
_COLOURS = 6
#: How many times the lowest perplexity the axis of the learning curves reaches: what comes before
#: would flatten all that matters.
_REACH = 3.0


@dataclass(frozen=True)
class Value:
    """A figure and its interval, in small."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class SubsetLine:
    """A subset's or control's line of the table."""

    name: str
    control: bool
    rows: str
    tokens_seen: str
    seeds: str
    loss: Value
    perplexity: Value
    gain_rows: str
    gain_tokens: str
    seconds: Value
    seconds_per_row: str
    tokens_per_second: str
    time_to_target: Value
    tokens_to_target: Value


@dataclass(frozen=True)
class ControlLine:
    """A subset against random rows."""

    name: str
    rows: str
    difference: Value
    ratio: Value
    verdict: str
    worth: str


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    kind: str
    name: str


@dataclass(frozen=True)
class ModeSection:
    """One mode of training."""

    title: str
    recommendation: list[str]
    notes: list[str]
    #: Perplexity against rows; None: nothing can be drawn.
    sizes: Markup | None
    curves: Markup | None
    #: Whether parts of the curves lie above the axis.
    is_cut: bool
    keys: list[Key]
    target: str
    is_configured: bool
    lines: list[SubsetLine]
    controls: list[ControlLine]
    scaling: list[str]


@dataclass(frozen=True)
class Tradeoff:
    """The section."""

    modes: list[ModeSection]
    confidence: str
    vocabulary: str
    excluded: int
    completions: Completions | None


def tradeoff(reader: RunReader) -> Tradeoff | None:
    """Read the analysis of a run; None where there is none."""
    if reader.made_by(STAGE) is None:
        return None
    try:
        analysis = orjson.loads(reader.storage.read_bytes(ANALYSIS) or b"")
    except orjson.JSONDecodeError:
        return None  # deleted, or cut: the stage makes it again
    modes = analysis.get("modes") if isinstance(analysis, dict) else None
    if not isinstance(modes, dict) or not modes:
        return None
    return Tradeoff(
        modes=[_mode(name, found) for name, found in modes.items()],
        confidence=f"{100 * analysis['confidence']:g} %",
        vocabulary=count(analysis["vocabulary"]),
        excluded=len(analysis["excluded"]),
        completions=completions(reader),
    )


def _mode(name: str, found: Mapping[str, Any]) -> ModeSection:
    subsets = found["subsets"]
    kinds = {of: f"s{n % _COLOURS}" for n, of in enumerate(dict.fromkeys(s["of"] for s in subsets))}
    curves, is_cut = _curves(subsets, kinds, found["target"]["perplexity"])
    target = finite(found["target"]["perplexity"])
    return ModeSection(
        title=_TITLES.get(name, plain(name)),
        recommendation=[plain(one) for one in found["recommendation"]],
        notes=[plain(one) for one in found["notes"]],
        sizes=_sizes(subsets),
        curves=curves,
        is_cut=is_cut,
        keys=[Key(kind, plain(of)) for of, kind in kinds.items()],
        target=figure(target),
        is_configured=found["target"]["from"] == "configuration",
        lines=[_line(one) for one in subsets],
        controls=[_control(one) for one in found["controls"]],
        scaling=[_law(which, law) for which, law in found["scaling"].items()],
    )


def _line(one: Mapping[str, Any]) -> SubsetLine:
    arrival, lost = one["to_target"], len(one["diverged_seeds"])
    return SubsetLine(
        name=plain(one["subset"]),
        control=bool(one["control"]),
        rows=count(one["rows"]),
        tokens_seen=large(one["tokens_seen"]),
        seeds=count(len(one["seeds"])) + (f", {lost} diverged" if lost else ""),
        loss=_value(one["loss"]),
        perplexity=_value(one["perplexity"]),
        gain_rows=figure(finite(one["gain_per_1000_rows"])),
        gain_tokens=figure(finite(one["gain_per_million_tokens_seen"])),
        seconds=_value(one["seconds"], _duration),
        seconds_per_row=figure(finite(one["seconds_per_row"])),
        tokens_per_second=figure(finite(one["tokens_per_second"]["mean"])),
        time_to_target=_arrival(arrival, "seconds", _duration),
        tokens_to_target=_arrival(arrival, "tokens", _tokens),
    )


def _value(estimate: Mapping[str, Any] | None, text: Any = figure) -> Value:
    mean = finite((estimate or {}).get("mean"))
    if estimate is None or mean is None:
        return Value(NONE)
    low, high = finite(estimate["low"]), finite(estimate["high"])
    if low is None or high is None:
        return Value(text(mean))
    if text(low) == text(high):
        return Value(text(mean))
    return Value(text(mean), f"{text(low)} to {text(high)}")


def _duration(seconds: float) -> str:
    """An interval may go below nothing, a time does not."""
    return duration(max(0.0, seconds))


def _tokens(number: float) -> str:
    return large(max(0.0, number))


def _arrival(arrival: Mapping[str, Any], name: str, text: Any) -> Value:
    if arrival[name] is None:
        reached, seeds = arrival["reached"], arrival["seeds"]
        return Value("not reached", f"{reached} of {seeds} seeds do" if reached else "")
    found = _value(arrival[name], text)
    return Value(f"≤ {found.text}", found.interval) if arrival["at_most"] else found


def _control(one: Mapping[str, Any]) -> ControlLine:
    verdicts = {
        "helps": "quality helps",
        "hurts": "quality hurts",
        "undecided": "cannot be told from chance",
        "unknown": "not known",
    }
    return ControlLine(
        name=plain(one["subset"]),
        rows=count(one["rows"]),
        difference=_signed(one["difference"]),
        ratio=_value(one["perplexity_ratio"]),
        verdict=verdicts.get(one["verdict"], plain(one["verdict"])),
        worth=_worth(one["worth_random_rows"]),
    )


def _signed(estimate: Mapping[str, Any] | None) -> Value:
    return _value(estimate, lambda value: f"{value:+.4f}") if estimate else Value(NONE)


def _worth(worth: Mapping[str, Any] | None) -> str:
    if worth is None:
        return NONE
    digits = max(0, math.floor(math.log10(worth["rows"])) - 1)
    return f"{worth['is']} {count(round(worth['rows'], -digits))}"


def _law(which: str, law: Mapping[str, Any]) -> str:
    name = {"subsets": "Best by quality", "controls": "Random rows"}.get(which, plain(which))
    if "why" in law:
        return f"{name}: no fit. {law['why'][:1].upper()}{law['why'][1:]}."
    ends = {
        key: f" ({figure(low)} to {figure(high)})" for key, (low, high) in law["intervals"].items()
    }
    remarks = "".join(f" {one[:1].upper()}{one[1:]}." for one in law["remarks"])
    return (
        f"{name}: E {figure(law['e'])}{ends.get('e', '')}, B {figure(law['b'])}, "
        f"β {figure(law['beta'])}{ends.get('beta', '')}.{remarks}"
    )


def _sizes(subsets: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Perplexity against rows on a logarithmic axis, with intervals."""
    shown: list[Series] = []
    bars: list[tuple[str, float, float, float]] = []
    for control, kind in ((False, "best"), (True, "control")):
        points = []
        for one in subsets:
            mean, low, high = (finite(one["perplexity"][key]) for key in ("mean", "low", "high"))
            if one["control"] is control and one["rows"] > 0 and mean is not None:
                points.append((float(one["rows"]), mean))
                if low is not None and high is not None:
                    bars.append((kind, float(one["rows"]), low, high))
        if points:
            shown.append(Series(kind, points, "marked"))
    if not shown:
        return None
    ends = Series("", [(x, y) for _, x, *ys in bars for y in ys])
    frame = Frame.around("", [*shown, ends], log=True)
    drawn = [error_bar(frame, *bar) for bar in bars]
    return line_chart(frame, *drawn, *(curve(frame, series) for series in shown))


def _curves(
    subsets: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], target: Any
) -> tuple[Markup | None, bool]:
    """Perplexity on the validation rows against tokens, and whether it is cut above."""
    by_subset = {
        one["subset"]: [
            (float(point["tokens"]), math.exp(min(point["loss"], 700.0)))
            for point in one["curve"]
            if point["tokens"] > 0
        ]
        for one in subsets
    }
    lowest = min((y for points in by_subset.values() for _, y in points), default=0.0)
    ceiling = _REACH * max([lowest, *(points[-1][1] for points in by_subset.values() if points)])
    shown = []
    for one in subsets:
        points = [(x, y) for x, y in by_subset[one["subset"]] if y <= ceiling]
        if points:
            kind = f"{kinds[one['of']]}{' random' if one['control'] else ''}"
            shown.append(Series(kind, points))
    if not shown:
        return None, False
    goal = finite(target)
    frame = Frame.around("", shown, log=True)
    within = goal is not None and frame.y[0] <= goal <= frame.y[1]
    line = level(frame, "default", goal) if goal is not None and within else ""
    cut = any(y > ceiling for points in by_subset.values() for _, y in points)
    return line_chart(frame, line, *(curve(frame, series) for series in shown)), cut
