"""What the models of an experiment write, side by side, from ``generations.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, count, figure, plain, share, shortened
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

#: The stage, named as in the ledger, and its file.
STAGE, FILE = "generations", "experiment/generations.csv"
#: Instructions that are shown, and characters of a text.
_SHOWN, _TEXT = 2, 300
MEASURES = {
    "coherence": "coherence",
    "diversity": "diversity",
    "instruction_following": "instruction following",
    "length_appropriateness": "length",
}


@dataclass(frozen=True)
class ModelScores:
    """A model's line: each measure with its confidence interval."""

    subset: str
    mode: str
    scores: list[tuple[str, str]]
    by_chance: str
    reference_perplexity: str
    ended: str
    empty: str


@dataclass(frozen=True)
class ModelTexts:
    """What one model wrote for an instruction."""

    subset: str
    mode: str
    texts: list[str]


@dataclass(frozen=True)
class Instruction:
    """An instruction with the completions of every model."""

    text: str
    reference: str
    models: list[ModelTexts]


@dataclass(frozen=True)
class Completions:
    """The section."""

    prompts: int
    samples: int
    measures: list[str]
    lines: list[ModelScores]
    #: Whether a reference model measured their perplexity.
    has_reference_model: bool
    #: The same measures of the references, where they are defined.
    references: list[str]
    shown: list[Instruction]


def read(reader: ReportReader) -> Completions | None:
    """Read the completions of a run; None where no model completed anything."""
    figures = reader.made_by(STAGE) or {}
    cells = figures.get("cells")
    if not isinstance(cells, dict) or not cells:
        return None
    references = figures.get("references") or {}
    return Completions(
        prompts=int(figures["prompts"]),
        samples=int(figures["samples"]),
        measures=list(MEASURES.values()),
        lines=(lines := [_scores(cell) for cell in cells.values()]),
        has_reference_model=any(line.reference_perplexity != NONE for line in lines),
        references=[_number(references.get(name)) for name in MEASURES],
        shown=_shown(reader),
    )


def _scores(cell: Mapping[str, Any]) -> ModelScores:
    scores = []
    for name in MEASURES:
        estimate = cell.get(name) or {}
        low, high = _number(estimate.get("low")), _number(estimate.get("high"))
        interval = "" if NONE in (low, high) else f"{low} to {high}"
        scores.append((_number(estimate.get("mean")), interval))
    ended = finite(cell.get("ended"))
    return ModelScores(
        subset=plain(cell["subset"]),
        mode=plain(cell["mode"]),
        scores=scores,
        by_chance=_number(cell.get("instruction_following_by_chance")),
        reference_perplexity=figure(finite(cell.get("reference_perplexity"))),
        ended=NONE if ended is None else share(ended, 1),
        empty=count(cell["empty"]),
    )


def _number(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else f"{number:.2f}"


def _shown(reader: ReportReader) -> list[Instruction]:
    """The first instructions by their rows' ids."""
    rows = reader.csv(FILE)
    if rows is None:
        return []
    wanted = sorted(set(rows["row_id"].to_pylist()))[:_SHOWN]
    by_row: dict[str, dict[tuple[str, str], list[dict[str, str]]]] = {}
    for line in rows.to_pylist():
        if line["row_id"] in wanted:
            models = by_row.setdefault(line["row_id"], {})
            models.setdefault((line["subset"], line["mode"]), []).append(line)
    return [_instruction(by_row[row_id]) for row_id in wanted]


def _instruction(models: Mapping[tuple[str, str], list[dict[str, str]]]) -> Instruction:
    any_line = next(iter(models.values()))[0]
    return Instruction(
        text=_cut(any_line["instruction"]),
        reference=_cut(any_line["reference"]),
        models=[
            ModelTexts(plain(subset), plain(mode), [_cut(line["completion"]) for line in lines])
            for (subset, mode), lines in models.items()
        ],
    )


def _cut(text: Any) -> str:
    return shortened(plain(text or ""), _TEXT)


SECTION = Section("completions", "What the models write", "completions.html.j2", read)
