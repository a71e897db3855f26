"""Completions by the models of an experiment: several per instruction, with quality measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.spreadsheets import without_formulas
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.experiment import completions as metrics
from ray_pipeline.evaluate.experiment.cells import Cell, groups, read_cells
from ray_pipeline.evaluate.statistics import estimate, perplexity_of
from ray_pipeline.models.decoding import Decoding, Generated
from ray_pipeline.models.device import check_gpu, device
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.rundir.unreadable import read_json
from ray_pipeline.stage import ArtifactStage, StageConfig, Workplace
from ray_pipeline.stages.training.measured_rows import chosen
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.stages.training.tokenise import Tokenise

if TYPE_CHECKING:
    from ray_pipeline.evaluate.model import ReferenceModel

#: All completions with their measures, relative to the run directory.
RESULTS = "experiment/generations.csv"
#: Measures of a completion, and of all completions of an instruction.
OF_EACH = ("coherence", "instruction_following", "length_appropriateness")
OF_ALL = ("diversity", "distinct_1", "distinct_2")
#: Responses of test rows whose word pairs count as written by people.
_KNOWN = 5_000
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("cell", "subset", "mode", "row_id", "instruction")]
    + [("reference", pa.string()), ("sample", pa.int32()), ("completion", pa.string())]
    + [("tokens", pa.int32()), ("ended", pa.bool_())]
    + [(name, pa.float64()) for name in (*OF_EACH, *OF_ALL, "reference_nats")]
)


@dataclass(frozen=True)
class _Prompts:
    """The instructions to complete, in the order of the source."""

    row_ids: list[str]
    instructions: list[str]
    references: list[str]
    #: Neighbouring words in the responses of other test rows.
    known: metrics.Pairs


class SubsetGenerations(ArtifactStage):
    """Writes ``experiment/generations.csv``: completions by the kept models of the first seed.

    Each model's completions are on storage as soon as they are there: a later attempt reads them.
    """

    name = "generations"
    makes = (RESULTS,)
    reads = {
        "instruction": pa.string(),
        "response": pa.string(),
        "split": pa.string(),
    }
    uses_seed = True

    class Config(StageConfig):
        prompts: int = Field(
            20, ge=1, description="number of test rows whose instructions are completed"
        )
        samples: int = Field(5, ge=1, description="number of completions per instruction")
        temperature: float = Field(0.8, gt=0, description="sampling temperature")
        top_p: float = Field(
            0.9,
            gt=0,
            le=1,
            description="nucleus sampling: sample from the most likely tokens that together have "
            "this probability",
        )
        max_tokens: int = Field(200, ge=1, description="maximum number of tokens per completion")
        reference_model: str | None = Field(
            None,
            description="model whose perplexity on the completions measures their fluency; null: "
            "fluency is not measured",
        )
        dtype: Literal["float32", "bfloat16"] = Field(
            "float32", description="data type of the weights"
        )
        # Sampled tokens depend on the other rows of a batch, so this is not an execution field.
        batch_rows: int = Field(50, ge=1, description="completions per batch")
        gpu: Annotated[bool | None, Execution] = Field(
            None, description="run the models on a GPU; null: if this machine has one"
        )

    config: Config

    @property
    def models(self) -> Mapping[str, str]:
        """The reference model, if one is configured."""
        name = self.config.reference_model
        return {} if name is None else {"reference_model": name}

    def check(self) -> None:
        """Check that this machine has a GPU if the configuration requires one."""
        check_gpu(self.config.gpu)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Complete the instructions with each model and measure; reuses earlier attempts."""
        prompts = self._prompts(rows)
        cells = with_models(read_cells(place.storage))
        if not cells:
            place.say("  no model of the experiment was kept, so there is nothing to complete with")
        measured = {cell.name: self._measured(cell, prompts, place) for cell in cells}
        lines = [line for found, _ in measured.values() for line in found]
        with place.storage.writer(RESULTS) as file:
            table = pa.Table.from_pylist(lines, _SCHEMA)
            is_safe = self.settings.for_spreadsheets
            pacsv.write_csv(without_formulas(table) if is_safe else table, file)
        return {
            "prompts": len(prompts.row_ids),
            "samples": self.config.samples,
            "cells": {name: figures for name, (_, figures) in measured.items()},
            "references": _of_references(prompts),
        }

    def _prompts(self, rows: StoredRows) -> _Prompts:
        require_rows(self, rows, test="to take instructions from")
        table = rows.mapped(["row_id", "instruction", "response"], split="test")
        ids, config = table["row_id"].to_pylist(), self.config
        # Word pairs come from other rows than those whose references are measured.
        drawn = chosen(ids, config.prompts, self.settings.seed)
        more = set(chosen(ids, config.prompts + _KNOWN, self.settings.seed)) - set(drawn)
        asked, others = table.take(drawn), table.take(sorted(more))
        return _Prompts(
            asked["row_id"].to_pylist(),
            asked["instruction"].to_pylist(),
            [text.strip() for text in asked["response"].to_pylist()],
            metrics.word_pairs(others["response"].to_pylist()),
        )

    def _measured(
        self, cell: Cell, prompts: _Prompts, place: Workplace
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        found = self._completions(cell, prompts, place)
        made = [Generated(**one) for one in found["completions"]]
        at = range(0, len(made), self.config.samples)
        families = [made[first : first + self.config.samples] for first in at]
        lines = [
            line
            for row, family in enumerate(families)
            for line in _lines(cell, prompts, row, family, found["references"][row])
        ]
        for line, nats in zip(lines, found["nats"], strict=True):
            line["reference_nats"] = nats
        return lines, _figures(cell, prompts, families, lines)

    def _completions(self, cell: Cell, prompts: _Prompts, place: Workplace) -> dict[str, Any]:
        """The result of `_made`, from storage if an earlier attempt left it there."""
        path = f"{place.folder}/{cell.name}.json"
        found: dict[str, Any] | None = read_json(place.storage, path)
        if found is None:
            place.say(f"  {cell.name} completes {len(prompts.row_ids)} instructions")
            raw = orjson.dumps(self._made(cell, prompts, place.storage))
            place.storage.write_bytes(path, raw)
            found = orjson.loads(raw)
        return found

    def _made(self, cell: Cell, prompts: _Prompts, storage: Storage) -> dict[str, Any]:
        """Completions, those of one instruction side by side, what the reference model finds of
        each, and tokens of the references.
        """
        import torch

        from ray_pipeline.evaluate.generation import TextGenerator
        from ray_pipeline.models.control_tokens import ControlTokens
        from ray_pipeline.models.text import text_config
        from ray_pipeline.models.tokenizer import load_tokenizer
        from ray_pipeline.rundir.models import get_model
        from ray_pipeline.train.student import load

        config = self.config
        folder = get_model(storage, str(cell.model).removeprefix("models/"))
        tokenizer = load_tokenizer(folder)
        model = load(folder).to(device(self.config.gpu), getattr(torch, config.dtype))
        text = text_config(folder) or self.stage_of(Tokenise).config.text
        decoding = Decoding(config.max_tokens, config.temperature, self.settings.seed, config.top_p)
        asked = [one for one in prompts.instructions for _ in range(config.samples)]
        made = TextGenerator(model, tokenizer, text)(asked, decoding, config.batch_rows)
        control = ControlTokens(tokenizer)
        lengths = [len(control.data(one)) for one in prompts.references]
        reader = self._reader
        texts = zip(asked, (one.text for one in made), strict=True)
        nats = [None if reader is None else reader.nats_per_token(*both) for both in texts]
        return {
            "completions": [asdict(one) for one in made],
            "nats": nats,
            # Cut to the length that models may write, so that lengths are comparable.
            "references": [min(length, config.max_tokens) for length in lengths],
        }

    @cached_property
    def _reader(self) -> ReferenceModel | None:
        """The reference model, loaded when the first completions are measured."""
        if self.config.reference_model is None:
            return None
        import torch

        from ray_pipeline.evaluate.model import ReferenceModel

        dtype = getattr(torch, self.config.dtype)
        return ReferenceModel(self.model("reference_model"), device(self.config.gpu), dtype)


def with_models(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the first seed that has models, at their subset's learning rate.

    Cells that are one training have one model: it is asked once, as the first of them.
    """
    kept = [
        cell
        for mode in dict.fromkeys(cell.mode for cell in cells)
        for group in groups(cells, mode)
        for cell in group.cells
        if cell.model
    ]
    first = min((cell.seed for cell in kept), default=None)
    by_model = {cell.model: cell for cell in reversed(kept) if cell.seed == first}
    return [cell for cell in kept if by_model.get(cell.model) is cell]


def _lines(
    cell: Cell, prompts: _Prompts, row: int, family: Sequence[Generated], reference: int
) -> list[dict[str, Any]]:
    """One line of the CSV file per completion of an instruction."""
    texts = [one.text for one in family]
    of_all = dict(zip(OF_ALL, _of_all(texts), strict=True))
    instruction = prompts.instructions[row]
    return [
        {
            "cell": cell.name,
            "subset": cell.subset,
            "mode": cell.mode,
            "row_id": prompts.row_ids[row],
            "instruction": instruction,
            "reference": prompts.references[row],
            "sample": number,
            "completion": one.text,
            "tokens": one.tokens,
            "ended": one.ended,
            "coherence": metrics.coherence(one.text, prompts.known),
            "instruction_following": metrics.follows(instruction, one.text),
            "length_appropriateness": metrics.length_fit(one.tokens - one.ended, reference),
            **of_all,
        }
        for number, one in enumerate(family, start=1)
    ]


def _of_all(texts: Sequence[str]) -> tuple[float, float, float]:
    return metrics.diversity(texts), metrics.distinct(texts, 1), metrics.distinct(texts, 2)


def _figures(
    cell: Cell,
    prompts: _Prompts,
    families: Sequence[Sequence[Generated]],
    lines: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Means over instructions, whose spread gives the intervals; completions of one are no more
    independent than its words.
    """
    figures: dict[str, Any] = {"subset": cell.subset, "control": cell.control, "mode": cell.mode}
    for name in (*OF_EACH, *OF_ALL):
        by_row: dict[str, list[float]] = {}
        for line in lines:
            if line[name] is not None:
                by_row.setdefault(line["row_id"], []).append(line[name])
        means = [math.fsum(values) / len(values) for values in by_row.values()]
        # The interval is clipped to the measure's range.
        within = estimate(means).mapped(lambda x: min(1.0, max(0.0, x))) if means else None
        figures[name] = None if within is None else within.to_json()
    turned = [*prompts.instructions[1:], *prompts.instructions[:1]]
    by_chance = [
        follows
        for instruction, family in zip(turned, families, strict=True)
        for one in family
        if (follows := metrics.follows(instruction, one.text)) is not None
    ]
    figures["instruction_following_by_chance"] = _mean(by_chance)
    read = [line["reference_nats"] for line in lines if line["reference_nats"] is not None]
    nats = _mean(read)
    figures["reference_perplexity"] = None if nats is None else perplexity_of(nats)
    figures["ended"] = _mean([float(line["ended"]) for line in lines])
    figures["empty"] = sum(not line["completion"] for line in lines)
    figures["tokens"] = _mean([line["tokens"] for line in lines])
    return figures


def _of_references(prompts: _Prompts) -> dict[str, float | None]:
    """Measures of the reference responses: the values that human-written text reaches."""
    both = zip(prompts.instructions, prompts.references, strict=True)
    followed = [f for a, b in both if (f := metrics.follows(a, b)) is not None]
    return {
        "coherence": _mean([metrics.coherence(one, prompts.known) for one in prompts.references]),
        "instruction_following": _mean(followed),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
