"""Trains a model to compress prompts, and says of every epoch what its compressions are like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.text import share
from ray_pipeline.evaluate.compression import lengths, rouge
from ray_pipeline.models.text import TextConfig
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.rundir.models import model_folder
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.rundir.trainings import read_curve
from ray_pipeline.stage import Stage, Workplace
from ray_pipeline.stages.compression.measure import AfterMeasuring, MeasurePrompts
from ray_pipeline.stages.compression.tokens import token_counter
from ray_pipeline.stages.compression.trained import (
    COMPRESSOR_FILE,
    KIND_OF,
    Method,
    TrainedCompressor,
)
from ray_pipeline.stages.compression.training_rows import TokeniseCompressions
from ray_pipeline.stages.training.base import TrainingConfig, TrainingStage
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.train.job import ModelSource, TrainingJob

#: Name of the trained model in the run.
COMPRESSOR = "compressor"
CARD = f"{model_folder(COMPRESSOR)}/README.md"
#: Figures of a curve's evaluations that are the model's compressions.
MEASURED = (
    "rouge1", "rouge2", "rougeL", "rougeLsum", "total_ratio", "mean_ratio", "p90_ratio",
    "violations", "empty", "cut", "measured_rows", "rouge_not_measurable",
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """Compresses validation prompts and compares: given to the training, which pickles it.

    Attributes:
        method: how the model compresses.
        text: format of a causal model's prompts.
        prompts: to compress.
        references: their compressions in the data.
        tokenizer: folder of what counts tokens: that of who pays for the prompts.
        protect: regular expressions of what must stay.
        stemmer: of ROUGE.
    """

    method: Method
    text: TextConfig | None
    prompts: tuple[str, ...]
    references: tuple[str, ...]
    tokenizer: str
    protect: tuple[str, ...]
    stemmer: bool

    def __call__(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        """Figures of a model: see `MEASURED`. Shares are fractions of the prompts."""
        patterns = [re.compile(pattern) for pattern in self.protect]
        compress = TrainedCompressor(model, tokenizer, self.method, self.text, patterns)
        found = compress(self.prompts)
        count = token_counter(self.tokenizer)
        texts = [one.text for one in found]
        ratios = lengths([count(text) for text in self.prompts], [count(text) for text in texts])
        overlap = rouge(texts, self.references, self.stemmer)
        rows = len(texts)
        return {
            **overlap.scores,
            "total_ratio": ratios.total_ratio,
            "mean_ratio": ratios.mean_ratio,
            "p90_ratio": ratios.p90_ratio,
            "violations": ratios.violations / rows,
            "empty": sum(not text.strip() for text in texts) / rows,
            "cut": sum(one.is_cut for one in found) / rows,
            "measured_rows": rows,
            "rouge_not_measurable": overlap.not_measurable,
        }


class TrainCompressor(AfterMeasuring, TrainingStage):
    """Trains a model to compress, and keeps it in the run: ``models/compressor``.

    Before the first step and at each evaluation, validation prompts are compressed: ROUGE against
    the compressions of the data, ratios by the payer's tokenizer, the share of compressions that
    are longer than their prompt. The weights with the lowest validation loss are kept.

    The model's folder has a card, and a file with how it compresses (`trained.load_compressor`).
    """

    name = "train-compressor"
    version = 1
    makes = (CARD, f"{model_folder(COMPRESSOR)}/config.json")
    reads = {
        **TrainingStage.reads,
        "prompt": pa.string(),
        "compressed_prompt": pa.string(),
    }

    class Config(TrainingConfig):
        measured_rows: int = Field(
            100, ge=1, description="maximum number of validation prompts compressed at evaluations"
        )
        stemmer: bool = Field(
            True, description="ROUGE compares words without their endings, by Porter's stemmer"
        )
        threshold: float = Field(
            0.5,
            gt=0,
            lt=1,
            description="probability from which on a word is kept, for keep_or_drop",
        )

    config: Config

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """What names the payer's tokenizer, and what tokenises the rows."""
        return (MeasurePrompts, TokeniseCompressions)

    @property
    def rows_config(self) -> TokeniseCompressions.Config:
        """The configuration with which the rows were tokenised."""
        return self.stage_of(TokeniseCompressions).config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        rows = self.find_stage(TokeniseCompressions)
        return rows is None or rows.is_off

    @property
    def method(self) -> Method:
        """How the model compresses, but for the limit of tokens, which the rows give."""
        rows = self.rows_config
        prefix = rows.prefix if rows.form == "seq2seq" else ""
        return Method(
            rows.form,
            prefix,
            max_prompt_tokens=rows.max_prompt_tokens,
            threshold=self.config.threshold,
        )

    @property
    def chat(self) -> TextConfig | None:
        """Format of a causal model's prompts."""
        return self.rows_config.text if self.rows_config.form == "causal" else None

    def check(self) -> None:
        """Check that what is configured can be measured at evaluations."""
        if self.config.workers.sharded:
            raise UserError("workers.sharded: the model is asked at evaluations: set it to false")
        form = self.rows_config.form
        if form != "causal" and self.config.batches.layout == "packed":
            raise UserError(f"batches.layout: packed is not for {form}: set it to right")

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training."""
        base = self.stage_of(TokeniseCompressions).tokenizer
        form = self.rows_config.form
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=place.folder,
            model=ModelSource(base, kind=KIND_OF[form]),
            name=COMPRESSOR,
            text=self.chat,
            loop=self.seeded(self.config.loop),
            batches=self.config.batches,
            measure=self._measure(rows),
        )

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Train the model, and write its card."""
        require_rows(self, rows, validation="to choose the best weights on")
        figures = super().make(rows, place)
        folder = model_folder(COMPRESSOR)
        method = self._limited(rows)
        place.storage.write_bytes(f"{folder}/{COMPRESSOR_FILE}", method.to_json().encode())
        lines = read_curve(place.storage, f"{place.folder}/curve.jsonl")
        epochs = [
            {name: line.get(name) for name in ("step", "validation_loss", "best", *MEASURED)}
            for line in lines
            if "validation_loss" in line
        ]
        found = {
            **figures,
            "form": method.form,
            "base": self.stage_of(TokeniseCompressions).config.model,
            "tokenizer": self.tokenizer_of_payer,
            "stemmer": self.config.stemmer,
            "evaluations": epochs,
            "max_new_tokens": method.max_new_tokens,
            "max_prompt_tokens": method.max_prompt_tokens,
        }
        place.storage.write_bytes(CARD, _card(found).encode())
        for line in _lines(epochs):
            place.say(f"  {line}")
        return found

    @property
    def tokenizer_of_payer(self) -> str:
        """Name of the tokenizer that ratios are counted with."""
        return self.measure.config.tokenizer

    @property
    def models(self) -> Mapping[str, str]:
        """The payer's tokenizer."""
        return {"tokenizer": self.tokenizer_of_payer}

    def _measure(self, rows: StoredRows) -> Measure:
        table = rows.mapped(["row_id", "prompt", "compressed_prompt"], **{SPLIT: "validation"})
        # By their ids, which are hashes: no one part of the source, and the same in every run.
        chosen = np.argsort(table["row_id"].to_numpy())[: self.config.measured_rows]
        table = table.take(pa.array(np.sort(chosen)))
        return Measure(
            self._limited(rows),
            self.chat,
            tuple(table["prompt"].to_pylist()),
            tuple(table["compressed_prompt"].to_pylist()),
            self.model("tokenizer"),
            tuple(self.measure.config.protect),
            self.config.stemmer,
        )

    def _limited(self, rows: StoredRows) -> Method:
        """The method with the limit of tokens: the longest label that is trained on."""
        longest = 1
        for table in rows.tables(["answer_mask", SPLIT]):
            for mask, split in zip(*(column.to_pylist() for column in table), strict=True):
                if split == "train":
                    longest = max(longest, sum(mask))
        return replace(self.method, max_new_tokens=longest)


def _lines(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each evaluation measured, for people."""
    return [
        f"step {one['step']}: validation loss {one['validation_loss']:.4f}, ratio "
        f"{one['total_ratio']:.4f}, ROUGE-L {_shown(one['rougeL'])}, longer than the prompt "
        f"{share(one['violations'], 1)}"
        for one in epochs
        if one["total_ratio"] is not None
    ]


def _shown(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.4f}"


_COLUMNS = {
    "validation_loss": "validation loss",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "total_ratio": "ratio of sums",
    "mean_ratio": "mean ratio",
    "p90_ratio": "90th percentile",
    "violations": "longer than the prompt",
    "cut": "cut at the limit",
}


def _card(figures: Mapping[str, Any]) -> str:
    """The model card of a trained compressor."""
    rows = [
        "| "
        + " | ".join(
            ["before" if one["step"] == 0 else str(one["step"]) + " (best)" * bool(one["is_kept"])]
            + [_cell(one[name]) for name in _COLUMNS]
        )
        + " |"
        for one in _with_kept(figures)
    ]
    head = "| step | " + " | ".join(_COLUMNS.values()) + " |"
    rule = "|" + " --- |" * (len(_COLUMNS) + 1)
    measured = max((one["measured_rows"] or 0 for one in figures["evaluations"]), default=0)
    stemmer = "with" if figures["stemmer"] else "without"
    return f"""---
library_name: transformers
base_model: {figures["base"]}
license: other
tags: [prompt-compression]
---

# A model that makes prompts shorter

Trained by `ray_pipeline` from `{figures["base"]}`, in the form `{figures["form"]}`, on
{figures["rows"]:,} prompts with their compressions ({figures["steps"]:,} steps).

## Metrics

On {measured} validation prompts. Tokens are those of `{figures["tokenizer"]}`, without special
tokens. ROUGE is the F-measure of rouge-score {stemmer} Porter's stemmer, against the compressions
of the data: it says how alike the texts are, not whether the prompt still asks the same.

{head}
{rule}
{chr(10).join(rows)}

## Data and licence

The prompts and compressions are those of the run that this folder is part of. Compressions are the
work of a model, of rules, or both: `compression_origin` in the run's exports says which. Prompts of
Dolly are under CC BY-SA 3.0, which their compressions, and cards of models trained on them, carry
on. The base model has its own licence.

## Limits

- It was trained on prompts of at most {figures["max_prompt_tokens"]} tokens of its own tokenizer.
- Nothing that it returns has been checked: a number, a negation or a constraint may be missing.
  `ray-pipeline compress` checks, and returns the prompt where a check fails.
- It saw the languages of its training data alone.
"""


def _with_kept(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    best = figures.get("best_step")
    return [{**one, "is_kept": one["step"] == best} for one in figures["evaluations"]]


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
