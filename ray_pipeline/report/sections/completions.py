"""What the models of an experiment write, side by side, of ``generations.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.text import NONE, count, figure, plain, share, shortened
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.trainings import finite

#: The stage, named as in the ledger, and its file.
STAGE, FILE = "generations", "experiment/generations.csv"
#: Instructions that are shown, and characters of a text.
_SHOWN, _TEXT = 2, 300
_BLOCK = 16 * 2**20
MEASURES = {
    "coherence": "coherence",
    "diversity": "diversity",
    "instruction_following": "instruction following",
    "length_appropriateness": "length",
}


@dataclass(frozen=True)
class Measured:
    """A model's line: each measure with its interval, in small."""

    subset: str
    mode: str
    values: list[tuple[str, str]]
    by_chance: str
    #: Perplexity under the reference model.
    reads: str
    ended: str
    empty: str


@dataclass(frozen=True)
class Written:
    """What one model made of an instruction."""

    subset: str
    mode: str
    texts: list[str]


@dataclass(frozen=True)
class Instruction:
    """An instruction with the completions of every model."""

    text: str
    reference: str
    models: list[Written]


@dataclass(frozen=True)
class Completions:
    """The part of the section."""

    prompts: int
    samples: int
    measures: list[str]
    lines: list[Measured]
    #: Whether a reference model read them.
    are_read: bool
    #: What the references get, for the measures that they can be measured by.
    references: list[str]
    shown: list[Instruction]


def completions(reader: RunReader) -> Completions | None:
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
        lines=(lines := [_measured(one) for one in cells.values()]),
        are_read=any(line.reads != NONE for line in lines),
        references=[_number(references.get(name)) for name in MEASURES],
        shown=_shown(reader),
    )


def _measured(one: Mapping[str, Any]) -> Measured:
    values = []
    for name in MEASURES:
        found = one.get(name) or {}
        low, high = _number(found.get("low")), _number(found.get("high"))
        interval = "" if NONE in (low, high) else f"{low} to {high}"
        values.append((_number(found.get("mean")), interval))
    ended = finite(one.get("ended"))
    return Measured(
        subset=plain(one["subset"]),
        mode=plain(one["mode"]),
        values=values,
        by_chance=_number(one.get("instruction_following_by_chance")),
        reads=figure(finite(one.get("reference_perplexity"))),
        ended=NONE if ended is None else share(ended, 1),
        empty=count(one["empty"]),
    )


def _number(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else f"{number:.2f}"


def _shown(reader: RunReader) -> list[Instruction]:
    """The first instructions by their rows' ids."""
    try:
        with reader.storage.open(FILE) as file:
            names = pacsv.open_csv(file, read_options=_READ, parse_options=_PARSE).schema.names
            file.seek(0)
            types = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            rows = pacsv.read_csv(file, _READ, _PARSE, types)
    except FileNotFoundError:
        return []
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"cannot read {reader.storage.uri(FILE)}: {error}") from error
    by_row: dict[str, dict[tuple[str, str], list[dict[str, str]]]] = {}
    wanted = sorted(set(rows["row_id"].to_pylist()))[:_SHOWN]
    for line in rows.to_pylist():
        if line["row_id"] in wanted:
            models = by_row.setdefault(line["row_id"], {})
            models.setdefault((line["subset"], line["mode"]), []).append(line)
    return [_instruction(by_row[row]) for row in wanted]


_READ = pacsv.ReadOptions(block_size=_BLOCK)
_PARSE = pacsv.ParseOptions(newlines_in_values=True)


def _instruction(models: Mapping[tuple[str, str], list[dict[str, str]]]) -> Instruction:
    any_line = next(iter(models.values()))[0]
    return Instruction(
        text=_cut(any_line["instruction"]),
        reference=_cut(any_line["reference"]),
        models=[
            Written(plain(subset), plain(mode), [_cut(line["completion"]) for line in lines])
            for (subset, mode), lines in models.items()
        ],
    )


def _cut(text: Any) -> str:
    return shortened(plain(text or ""), _TEXT)
