"""Is selecting by quality worth it: the recommended subset's cut-off, and what finding it cost.

The analysis recommends a subset by its losses. This section says which score that means, for other
rows of the same kind, and sets the cost of scoring against the training time that is saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import count, figure, plain
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.report.sections.tradeoff import TITLES, read_analysis

#: The stages that find the best rows, as in the ledger.
SCORING = (
    "score-quality",
    "score-ifd",
    "embed-instructions",
    "score-novelty",
    "judge-quality",
    "weigh-scores",
    "select-subsets",
)
WRITTEN = "write-subsets"
#: Below this share of a training, a saving is taken for none.
_NOTHING = 0.05


@dataclass(frozen=True)
class Cost:
    """What scoring and selecting took."""

    rows: int
    seconds: float
    dollars: float


@dataclass(frozen=True)
class Worth:
    """The section: sentences for each mode of training."""

    modes: list[tuple[str, list[str]]]


def read(reader: ReportReader) -> Worth | None:
    """Read cut-offs and costs of a run; None where no subsets were compared."""
    analysis = read_analysis(reader)
    if analysis is None:
        return None
    written = (reader.made_by(WRITTEN) or {}).get("subsets")
    written = written if isinstance(written, dict) else {}
    cost = _cost(reader)
    return Worth(
        [
            (TITLES.get(name, plain(name)), _sentences(mode, written, cost))
            for name, mode in analysis["modes"].items()
        ]
    )


def _cost(reader: ReportReader) -> Cost | None:
    accounts = {entry.account.name: entry.account for entry in reader.ledger.entries}
    scoring = [accounts[name] for name in SCORING if name in accounts]
    if not scoring:
        return None
    return Cost(
        rows=max(account.rows_in for account in scoring),
        seconds=math.fsum(account.seconds for account in scoring),
        dollars=math.fsum(a.llm.cost_usd for a in scoring if a.llm is not None),
    )


def _sentences(mode: Mapping[str, Any], written: Mapping[str, Any], cost: Cost | None) -> list[str]:
    by_name = {one["subset"]: one for one in mode["subsets"] if not one["control"]}
    name = mode["threshold"]["intervals"]["subset"] or mode["threshold"]["rule"]["subset"]
    if name not in by_name:
        return ["No subset is recommended, so there is no cut-off to use."]
    by = "intervals" if mode["threshold"]["intervals"]["subset"] else "rule alone"
    sentences = [_cut_off(plain(name), by, written.get(name))]
    largest = max(by_name.values(), key=lambda one: one["rows"])
    if cost is not None:
        sentences.append(_paid(cost, by_name[name], largest))
    return sentences


def _cut_off(name: str, by: str, subset: Any) -> str:
    lowest = finite(subset.get("score_min")) if isinstance(subset, Mapping) else None
    if lowest is None:
        return f"Recommended by the {by}: {name}; its lowest score is not on record."
    return (
        f"Recommended by the {by}: {name}, the rows with a quality of at least {lowest:.4f}. Use "
        f"that as min_score only for rows of the same kind that are scored with the same "
        f"configuration: the score depends on both."
    )


def _paid(cost: Cost, chosen: Mapping[str, Any], largest: Mapping[str, Any]) -> str:
    """What scoring cost, and after how many trainings it is paid."""
    dollars = f" and ${cost.dollars:,.2f}" if cost.dollars else ""
    spent = (
        f"Scoring and selecting from {count(cost.rows)} rows took {_time(cost.seconds)}{dollars}"
    )
    times = [finite((one["seconds"] or {}).get("mean")) for one in (chosen, largest)]
    if times[0] is None or times[1] is None:
        return f"{spent}; the time of the trainings is not on record."
    if chosen["subset"] == largest["subset"]:
        return f"{spent}, and saves no training: the largest subset is the one recommended."
    saved = times[1] - times[0]
    trained = f"a training on it takes {_time(times[0])}, on the largest {_time(times[1])}"
    if saved < _NOTHING * times[1]:
        return f"{spent}, and saves no training time: {trained}."
    number = math.ceil(cost.seconds / saved)
    after = "the first training" if number <= 1 else f"{count(number)} trainings"
    return (
        f"{spent}, once: {trained}, so the time is won back with {after}. Scoring is counted in "
        "seconds of work added up over workers, training in seconds of one; if they need different "
        "machines, weigh them by their prices."
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{figure(seconds)} s"
    return f"{seconds / 60:,.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


SECTION = Section("worth", "Is selecting worth it", "worth.html.j2", read)
