"""Quality against quantity: how good the models trained on subsets of the data are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import orjson
from markupsafe import Markup

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, count, duration, figure, large, plain
from ray_pipeline.report.drawing import (
    Frame,
    Point,
    Span,
    curve,
    ends_of,
    error_bar,
    level,
    plot,
)
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

#: The stage, named as in the ledger, and the file that it leaves.
STAGE, ANALYSIS = "analyse", "experiment/analysis.json"
#: What each mode of training is called.
TITLES = {
    "epochs": "Each subset with its own number of epochs",
    "tokens": "One budget of tokens and updates for all",
}
_COLOURS = 6
#: The axis of the learning curves reaches this multiple of the lowest perplexity: the beginnings
#: of the curves would flatten the rest.
_REACH = 3.0


@dataclass(frozen=True)
class Value:
    """A figure and its confidence interval."""

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
    #: Of the subset and of its control, one below the other.
    updates: list[str]
    tokens: list[str]
    schedules: list[str]
    difference: Value
    ratio: Value
    #: With Holm's correction over the table.
    p_value: str
    draws: str
    verdict: Value
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
    #: Whether an earlier version made the analysis, which compared what is not equal.
    is_unchecked: bool
    scaling: list[str]


@dataclass(frozen=True)
class Tradeoff:
    """The section."""

    modes: list[ModeSection]
    confidence: str
    vocabulary: str
    excluded: int


def read_analysis(reader: ReportReader) -> dict[str, Any] | None:
    """The analysis of an experiment with its ``modes``; None where there is none to be read."""
    if reader.made_by(STAGE) is None:
        return None
    try:
        analysis = orjson.loads(reader.storage.read_bytes(ANALYSIS) or b"")
    except orjson.JSONDecodeError:
        return None  # deleted or truncated: the stage writes it again
    modes = analysis.get("modes") if isinstance(analysis, dict) else None
    return analysis if isinstance(modes, dict) and modes else None


def read(reader: ReportReader) -> Tradeoff | None:
    """Read the analysis of a run; None where there is none."""
    analysis = read_analysis(reader)
    if analysis is None:
        return None
    return Tradeoff(
        modes=[_mode(name, mode) for name, mode in analysis["modes"].items()],
        confidence=f"{100 * analysis['confidence']:g} %",
        vocabulary=count(analysis["vocabulary"]),
        excluded=len(analysis["excluded"]),
    )


def _mode(name: str, mode: Mapping[str, Any]) -> ModeSection:
    subsets = mode["subsets"]
    kinds = {of: f"s{n % _COLOURS}" for n, of in enumerate(dict.fromkeys(s["of"] for s in subsets))}
    target = finite(mode["target"]["perplexity"])
    curves, is_cut = _curves(subsets, kinds, target)
    return ModeSection(
        title=TITLES.get(name, plain(name)),
        recommendation=[plain(sentence) for sentence in mode["recommendation"]],
        notes=[plain(note) for note in mode["notes"]],
        sizes=_sizes(subsets),
        curves=curves,
        is_cut=is_cut,
        keys=[Key(kind, plain(of)) for of, kind in kinds.items()],
        target=figure(target),
        is_configured=mode["target"]["from"] == "configuration",
        lines=[_line(subset) for subset in subsets],
        controls=[_control(control) for control in mode["controls"]],
        is_unchecked=any("effort" not in control for control in mode["controls"]),
        scaling=[_law(which, law) for which, law in mode["scaling"].items()],
    )


def _line(subset: Mapping[str, Any]) -> SubsetLine:
    arrival, lost = subset["to_target"], len(subset["diverged_seeds"])
    return SubsetLine(
        name=plain(subset["subset"]),
        control=bool(subset["control"]),
        rows=count(subset["rows"]),
        tokens_seen=large(subset["tokens_seen"]),
        seeds=count(len(subset["seeds"])) + (f", {lost} diverged" if lost else ""),
        loss=_value(subset["loss"]),
        perplexity=_value(subset["perplexity"]),
        gain_rows=figure(finite(subset["gain_per_1000_rows"])),
        gain_tokens=figure(finite(subset["gain_per_million_tokens_seen"])),
        seconds=_value(subset["seconds"], _duration),
        seconds_per_row=figure(finite(subset["seconds_per_row"])),
        tokens_per_second=figure(finite(subset["tokens_per_second"]["mean"])),
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
    """The interval of a time may go below 0, a time cannot."""
    return duration(max(0.0, seconds))


def _tokens(number: float) -> str:
    return large(max(0.0, number))


def _arrival(arrival: Mapping[str, Any], name: str, text: Any) -> Value:
    if arrival[name] is None:
        reached, seeds = arrival["reached"], arrival["seeds"]
        return Value("not reached", f"{reached} of {seeds} seeds do" if reached else "")
    value = _value(arrival[name], text)
    return Value(f"≤ {value.text}", value.interval) if arrival["at_most"] else value


def _control(control: Mapping[str, Any]) -> ControlLine:
    verdicts = {
        "helps": "quality helps",
        "hurts": "quality hurts",
        "undecided": "no significant difference",
        "unknown": "unknown",
        "not compared": "not compared",
    }
    sides = [side for side in (control.get("effort"), *control.get("control_effort", [])) if side]
    reasons = control.get("why") or ", ".join(control.get("differs", []))
    return ControlLine(
        updates=_distinct(side["updates"] for side in sides),
        tokens=_distinct(side["tokens_seen"] for side in sides),
        schedules=_distinct(map(_schedule, sides)),
        name=plain(control["subset"]),
        rows=count(control["rows"]),
        difference=_signed(control["difference"]),
        ratio=_value(control["perplexity_ratio"]),
        p_value=_probability(finite(control.get("p_adjusted"))),
        draws=count(control.get("draws", 1)),
        verdict=Value(
            verdicts.get(control["verdict"], plain(control["verdict"])), plain(reasons or "")
        ),
        worth=_worth(control["worth_random_rows"]),
    )


def _probability(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _distinct(texts: Iterable[str]) -> list[str]:
    """The texts without repetition: one where all sides are equal."""
    return list(dict.fromkeys(plain(text) for text in texts))


def _schedule(side: Mapping[str, Any]) -> str:
    """The learning-rate schedule of a side, in words; records of before lack all but its peak."""
    peak = f"peak {side['learning_rate']:g}"
    if side["schedule"] is None:
        return f"{peak}, warm-up not recorded"
    return f"{peak}, warm-up {count(side['warmup_steps'])}, {side['schedule']}"


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
    remarks = "".join(f" {remark[:1].upper()}{remark[1:]}." for remark in law["remarks"])
    return (
        f"{name}: E {figure(law['e'])}{ends.get('e', '')}, B {figure(law['b'])}, "
        f"β {figure(law['beta'])}{ends.get('beta', '')}.{remarks}"
    )


def _sizes(subsets: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Perplexity against rows on a logarithmic axis, with confidence intervals."""
    best = _by_size(subsets, control=False)
    control = _by_size(subsets, control=True)
    points, spans = [*best[0], *control[0]], [*best[1], *control[1]]
    if not points:
        return None
    frame = Frame.around("", [*points, *ends_of(spans)], log=True)
    drawn = [("best", *best), ("control", *control)]
    bars = [error_bar(frame, kind, span) for kind, _, ranges in drawn for span in ranges]
    lines = [curve(frame, kind, series, "marked") for kind, series, _ in drawn if series]
    return plot(frame, *bars, *lines)


def _by_size(subsets: Sequence[Mapping[str, Any]], control: bool) -> tuple[list[Point], list[Span]]:
    """Mean perplexities by rows, and their intervals where there are any."""
    means: dict[float, list[float]] = {}
    spans: list[Span] = []
    for subset in subsets:
        rows, perplexity = float(subset["rows"]), subset["perplexity"]
        mean, low, high = (finite(perplexity[key]) for key in ("mean", "low", "high"))
        if subset["control"] is control and rows > 0 and mean is not None:
            means.setdefault(rows, []).append(mean)
            if low is not None and high is not None:
                spans.append((rows, low, high))
    # Several draws of one size are one point, at the perplexity of their mean loss.
    return [(rows, geometric_mean(of_size)) for rows, of_size in means.items()], spans


def _curves(
    subsets: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], target: float | None
) -> tuple[Markup | None, bool]:
    """Perplexity on the validation rows against tokens, and whether it is cut above."""
    whole: list[tuple[str, list[Point]]] = []
    for subset in subsets:
        points = [
            (float(point["tokens"]), math.exp(min(point["loss"], 700.0)))
            for point in subset["curve"]
            if point["tokens"] > 0
        ]
        whole.append((f"{kinds[subset['of']]}{' random' if subset['control'] else ''}", points))
    perplexities = [y for _, points in whole for _, y in points]
    if not perplexities:
        return None, False
    ceiling = _REACH * max(min(perplexities), *(points[-1][1] for _, points in whole if points))
    shown = [(kind, [(x, y) for x, y in points if y <= ceiling]) for kind, points in whole]
    frame = Frame.around("", [point for _, points in shown for point in points], log=True)
    is_within = target is not None and frame.y.low <= target <= frame.y.high
    line = level(frame, "default", target) if target is not None and is_within else ""
    drawn = plot(frame, line, *(curve(frame, kind, points) for kind, points in shown if points))
    return drawn, max(perplexities) > ceiling


SECTION = Section("tradeoff", "Quality against quantity", "tradeoff.html.j2", read)
