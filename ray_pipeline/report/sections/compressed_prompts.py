"""How much shorter prompts became, what came of each origin, and how long prompts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ray_pipeline.report.drawing import Axis, histogram
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

#: The figures of the original experiment: ratio of sums, and shares of its first bins. They are
#: those of Dolly-15k under a tokenizer that is not named.
PUBLISHED_RATIO = 0.7474
PUBLISHED_BINS = {"1-16": 0.731, "17-32": 0.199, "33-48": 0.045}
#: Bins that are drawn; longer texts are in the last one.
_BINS = 12
_WIDTH = 16
#: A yield below this is said first.
_LOW = 0.1


@dataclass(frozen=True)
class Line:
    """One origin of candidates."""

    name: str
    candidates: int
    accepted: int
    chosen: int
    ratio: float | None
    #: The most frequent faults, with their counts.
    faults: list[tuple[str, int]]

    @property
    def is_low(self) -> bool:
        """Whether less than a tenth of its candidates could be used."""
        return self.accepted < _LOW * self.candidates


@dataclass(frozen=True)
class Bin:
    """Texts of some lengths."""

    name: str
    prompts: int
    compressed: int
    ratio: float | None
    published: float | None


@dataclass(frozen=True)
class CompressedPrompts:
    """The section."""

    tokenizer: str
    prompts: int
    accepted: int
    lengths: Mapping[str, Any]
    with_unchanged: Mapping[str, Any]
    origins: list[Line]
    bins: list[Bin]
    chart: Markup
    published_ratio: float = PUBLISHED_RATIO

    @property
    def low(self) -> list[Line]:
        """Origins with a low yield."""
        return [line for line in self.origins if line.is_low]


def read(reader: ReportReader) -> CompressedPrompts | None:
    """The figures of the stage that summarises; None where the run has none."""
    figures = next(
        (
            found
            for found in reader.metrics.values()
            if isinstance(found, Mapping) and "prompt_bins" in found and "origins" in found
        ),
        None,
    )
    if figures is None or not figures["prompts"]:
        return None
    before, after = figures["prompt_bins"], figures["compressed_bins"]
    names = list(before)[:_BINS]
    bins = [
        Bin(
            name,
            before[name],
            after.get(name, 0),
            figures["by_bin"].get(name, {}).get("total_ratio"),
            PUBLISHED_BINS.get(name),
        )
        for name in names
    ]
    return CompressedPrompts(
        figures["tokenizer"],
        figures["prompts"],
        figures["accepted"],
        figures["lengths"],
        figures["lengths_with_unchanged"],
        [_line(name, made) for name, made in figures["origins"].items()],
        bins,
        _chart(before, after),
    )


def _line(name: str, made: Mapping[str, Any]) -> Line:
    faults = sorted(made["faults"].items(), key=lambda item: (-item[1], item[0]))
    ratio = made["lengths"]["total_ratio"]
    return Line(name, made["candidates"], made["accepted"], made["chosen"], ratio, faults[:5])


def _chart(before: Mapping[str, int], after: Mapping[str, int]) -> Markup:
    end = _BINS * _WIDTH
    axis = Axis(0, end)
    ticks = [(0.0, "0"), (end / 2, f"{end // 2}"), (float(end), f"≥ {end}")]
    series = [
        ("before", _counts(before), sum(before.values())),
        ("outline", _counts(after), sum(after.values())),
    ]
    return histogram(axis, ticks, series, "tokens")


def _counts(bins: Mapping[str, int]) -> list[int]:
    counts = [0] * _BINS
    for name, number in bins.items():
        first = int(name.partition("-")[0])
        counts[min(max(first - 1, 0) // _WIDTH, _BINS - 1)] += number
    return counts


SECTION = Section("compressed-prompts", "Shorter prompts", "compressed_prompts.html.j2", read)
