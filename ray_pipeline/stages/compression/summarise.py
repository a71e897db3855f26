"""The summary after the passes: what came of the prompts, by origin, before anything is dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ray_pipeline.core.text import count, share
from ray_pipeline.evaluate.compression import Lengths, length_bins, lengths, lengths_by_bin
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, Workplace
from ray_pipeline.stages.compression.candidates import CANDIDATE, ChooseCompression
from ray_pipeline.stages.compression.measure import AfterMeasuring

#: A yield below this is what the summary says first.
LOW_YIELD = 0.1


class SummariseCompression(AfterMeasuring, ArtifactStage):
    """Figures of all prompts and their compressions, for the report and for who watches the run.

    The yield of each origin (candidates, accepted ones, what they save), faults, ratios, lengths.
    Where an origin yields less than a tenth, that is the first line.
    """

    name = "summarise"

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """What the passes wrote."""
        return {
            "prompt_tokens": pa.int64(),
            "compressed_tokens": pa.int64(),
            "compression_origin": pa.string(),
            "compression_fault": pa.string(),
            "candidates": pa.list_(CANDIDATE),
        }

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stage that chose, and what names the tokenizer."""
        return (*super().needs_stages, ChooseCompression)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Count all rows, and say what matters of them."""
        summary = Summary(self.tokenizer)
        for table in rows.tables(list(self.reads)):
            for row in table.to_pylist():
                summary.add(row)
        for line in summary.lines():
            place.say(f"  {line}")
        return summary.figures()


@dataclass
class OriginYield:
    """What came of the candidates of one origin.

    Attributes:
        candidates: prompts with a candidate of it.
        faults: what was wrong, by code.
        before: tokens of the prompts whose candidate was accepted.
        after: tokens of those candidates.
        chosen: prompts that it was taken for.
    """

    candidates: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    chosen: int = 0

    @property
    def accepted(self) -> int:
        """Candidates without a fault."""
        return len(self.before)

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "candidates": self.candidates,
            "accepted": self.accepted,
            "chosen": self.chosen,
            "faults": dict(sorted(self.faults.items())),
            "lengths": lengths(self.before, self.after).to_json(),
        }


class Summary:
    """Adds rows up.

    Args:
        tokenizer: name of what counted the tokens.
    """

    def __init__(self, tokenizer: str) -> None:
        self.tokenizer = tokenizer
        self._before: list[int] = []
        self._after: list[int | None] = []
        self._faults: Counter[str] = Counter()
        self._origins: dict[str, OriginYield] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row after `ChooseCompression`."""
        self._before.append(row["prompt_tokens"])
        self._after.append(row["compressed_tokens"])
        if row["compression_fault"] is not None:
            self._faults[_code(row["compression_fault"])] += 1
        for candidate in row["candidates"]:
            origin = self._origins.setdefault(candidate["origin"], OriginYield())
            origin.candidates += 1
            if candidate["fault"] is not None:
                origin.faults[_code(candidate["fault"])] += 1
            else:
                origin.before.append(row["prompt_tokens"])
                origin.after.append(candidate["tokens"])
        if row["compression_origin"] is not None:
            self._origins[row["compression_origin"]].chosen += 1

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(self._before)

    def _accepted(self) -> tuple[list[int], list[int]]:
        pairs = zip(self._before, self._after, strict=True)
        both = [(before, after) for before, after in pairs if after is not None]
        return [before for before, _ in both], [after for _, after in both]

    def _all(self) -> Lengths:
        """With the prompt itself where no compression was accepted."""
        pairs = zip(self._before, self._after, strict=True)
        sent = [before if after is None else after for before, after in pairs]
        return lengths(self._before, sent)

    def figures(self) -> dict[str, Any]:
        """As plain data, for ``metrics.json``."""
        before, after = self._accepted()
        bins = lengths_by_bin(before, after)
        return {
            "tokenizer": self.tokenizer,
            "prompts": self.prompts,
            "accepted": len(before),
            "lengths": lengths(before, after).to_json(),
            "lengths_with_unchanged": self._all().to_json(),
            "faults": dict(sorted(self._faults.items())),
            "origins": {name: made.figures() for name, made in sorted(self._origins.items())},
            "prompt_bins": length_bins(self._before),
            "compressed_bins": length_bins(after),
            "by_bin": {name: of_bin.to_json() for name, of_bin in bins.items()},
        }

    def lines(self) -> list[str]:
        """For people: what is low first."""
        before, after = self._accepted()
        low = [
            f"only {share(made.accepted, made.candidates)} of the candidates of {name} are usable: "
            + _worst(made.faults)
            for name, made in sorted(self._origins.items())
            if made.accepted < LOW_YIELD * made.candidates
        ]
        of_accepted = lengths(before, after)
        lines = [
            f"{count(len(before))} of {count(self.prompts)} prompts compressed",
            f"tokens of {self.tokenizer}: {count(of_accepted.before)} → {count(of_accepted.after)} "
            f"({_ratio(of_accepted.total_ratio)} of the tokens; mean of ratios "
            f"{_ratio(of_accepted.mean_ratio)}); with the others as they are "
            f"{_ratio(self._all().total_ratio)}",
        ]
        lines += [
            f"{name}: {count(made.accepted)} of {count(made.candidates)} usable, "
            f"{count(made.chosen)} taken, ratio "
            f"{_ratio(lengths(made.before, made.after).total_ratio)}; {_worst(made.faults)}"
            for name, made in sorted(self._origins.items())
        ]
        return low + lines


def _code(fault: str) -> str:
    return fault.partition(":")[0]


def _worst(faults: Counter[str]) -> str:
    """The most frequent faults, the empty, grown, refused and cut ones always."""
    always = ("empty", "longer", "refused", "cut")
    codes: Sequence[str] = [
        *always,
        *(code for code, _ in faults.most_common(3) if code not in always),
    ]
    return ", ".join(f"{code} {count(faults[code])}" for code in codes)


def _ratio(ratio: float) -> str:
    return "–" if ratio != ratio else f"{ratio:.4f}"
