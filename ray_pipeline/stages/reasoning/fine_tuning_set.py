"""The third stage of reasoning: a fine-tuning set as JSONL, for train, dev and test."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson
import pyarrow as pa
from pydantic import Field, model_validator

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.mistral_instruct import spells_tag, text
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
from ray_pipeline.stages.reasoning.pair_text import PairText
from ray_pipeline.stages.reasoning.think import SPLIT_FILES
from ray_pipeline.stages.reasoning.validate_pairs import HYPOTHESIS, LABEL, PAIR, PREMISE
from ray_pipeline.stages.text.keys import text_hash

#: The files, relative to the run directory, by split.
FILES = {split: f"exports/{file}_ft.jsonl" for split, file in SPLIT_FILES.items()}
SAMPLE, SUMMARY = "exports/sample_ft.jsonl", "exports/ft_summary.json"

_COLUMNS = ("row_id", *PAIR, LABEL, SPLIT, "reasoning", "origin", "question", "answer")


class FineTuningSet(ArtifactStage):
    """Writes ``train_ft.jsonl``, ``dev_ft.jsonl``, ``test_ft.jsonl`` and ``sample_ft.jsonl``.

    Each line has ``messages`` (the turns), ``text`` (the same with the tags of the chosen format),
    and the fields that it was made of. ``ft_summary.json`` counts the lines by label and origin,
    and their lengths.

    The files hold pairs whose first thoughts were right, or that have an accepted reflection, so
    they are easier than the source's: accuracy is measured on the pairs of the source, not on
    ``dev_ft.jsonl``.
    """

    name = "fine-tuning-set"
    reads = {
        **PAIR,
        LABEL: pa.string(),
        SPLIT: pa.string(),
        "reasoning": pa.string(),
        "origin": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
    }
    makes = (*FILES.values(), SAMPLE, SUMMARY)
    needs_stages: tuple[type[Stage], ...] = (PairText,)
    uses_seed = True

    class Config(StageConfig):
        format: Literal[
            "mistral-v1", "mistral-v2", "mistral-v3", "mistral-v3-tekken", "mistral-v7", "chat"
        ] = Field(
            "mistral-v3",
            description="tags of `text`: those of a version of Mistral's tokenizer (7B v0.3 has "
            "v3, 7B v0.1 and v0.2 have v1, Nemo has v3-tekken), or the chat template of `model`",
        )
        model: str | None = Field(
            None, description="model whose chat template is used, for the format chat"
        )
        system: str | None = Field(None, description="system message; null: none")
        balance: bool = Field(
            False,
            description="keep the same number of training pairs of each label: that of the rarest "
            "one; which of the others stay, is drawn with the seed",
        )
        sample_rows: int = Field(20, ge=0, description="lines of sample_ft.jsonl")

        @model_validator(mode="after")
        def _chat_has_a_model(self) -> FineTuningSet.Config:
            if (self.format == "chat") != (self.model is not None):
                raise ValueError("format: chat needs `model`, and no other format does")
            return self

    config: Config

    @property
    def models(self) -> Mapping[str, str]:
        """The model whose template is used."""
        return {} if self.config.model is None else {"model": self.config.model}

    def check(self) -> None:
        """Check that the model has a chat template."""
        self._writer()

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Write the files."""
        write = self._writer()
        chosen = self._balanced(rows) if self.config.balance else None
        figures: dict[str, Any] = {}
        sample: list[bytes] = []
        for split, path in FILES.items():
            lines: list[dict[str, Any]] = []
            with place.storage.writer(path) as file:
                for row in _usable(rows, split):
                    if split == "train" and chosen is not None and row["row_id"] not in chosen:
                        continue
                    line = write(row)
                    raw = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
                    file.write(raw)
                    if len(sample) < self.config.sample_rows and split == "train":
                        sample.append(raw)
                    lines.append({**line, "messages": None, "text": len(line["text"])})
            figures[SPLIT_FILES[split]] = _summary(lines)
        place.storage.write_bytes(SAMPLE, b"".join(sample))
        left_out = 0 if chosen is None else sum(1 for _ in _usable(rows, "train")) - len(chosen)
        result = {"splits": figures, "format": self.config.format, "left_out_to_balance": left_out}
        place.storage.write_bytes(SUMMARY, orjson.dumps(result, option=orjson.OPT_INDENT_2))
        for name, each in figures.items():
            place.say(f"  {name}_ft.jsonl: {each['rows']} lines, {each['by_origin']}")
        return result

    def _balanced(self, rows: StoredRows) -> set[str]:
        """Ids of as many training rows of each label as the rarest one has."""
        ids: dict[str, list[str]] = {}
        for row in _usable(rows, "train"):
            ids.setdefault(row[LABEL], []).append(row["row_id"])
        number = min(map(len, ids.values()), default=0)
        seed = str(self.settings.seed)
        ranked = {
            label: sorted(each, key=lambda row_id: text_hash(["balance", seed, row_id]))
            for label, each in ids.items()
        }
        return {row_id for each in ranked.values() for row_id in each[:number]}

    def _writer(self) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """What makes a line of a row."""
        config = self.config
        version = config.format.removeprefix("mistral-")
        tokenizer = None
        if config.format == "chat":
            from ray_pipeline.models.tokenizer import load_tokenizer

            tokenizer = load_tokenizer(self.model("model"))
            if not tokenizer.chat_template:
                raise UserError(
                    f"stages.{self.name}.model: {config.model} has no chat template: take a "
                    "Mistral format, or a model that was tuned for chat"
                )

        def line(row: Mapping[str, Any]) -> dict[str, Any]:
            turns = [{"role": "system", "content": config.system}] if config.system else []
            turns += [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
            if tokenizer is None:
                tagged = text(row["question"], row["answer"], version, config.system)  # type: ignore[arg-type]
            else:
                tagged = tokenizer.apply_chat_template(turns, tokenize=False)
            fields = {name: row[name] for name in ("row_id", *PAIR, LABEL, "reasoning", "origin")}
            return {"messages": turns, "text": tagged, **fields}

        return line


def _usable(rows: StoredRows, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a split that have a reasoning that is right."""
    for table in rows.tables(_COLUMNS):
        for row in table.to_pylist():
            if row[SPLIT] == split and row["origin"] is not None and row["answer"] is not None:
                yield row


def _summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by label and origin, and lengths."""
    by_both: dict[str, Counter[str]] = {}
    for line in lines:
        by_both.setdefault(line["origin"], Counter())[line[LABEL]] += 1
    lengths = [len(line["reasoning"].split()) for line in lines]
    texts = (PREMISE, HYPOTHESIS, "reasoning")
    return {
        "rows": len(lines),
        "by_label": dict(sorted(Counter(line[LABEL] for line in lines).items())),
        "by_origin": dict(sorted(Counter(line["origin"] for line in lines).items())),
        "by_origin_and_label": {origin: dict(c) for origin, c in sorted(by_both.items())},
        "reasoning_words": {
            "median": statistics.median(lengths) if lengths else 0,
            "longest": max(lengths, default=0),
        },
        "text_characters": {
            "median": statistics.median(line["text"] for line in lines) if lines else 0,
            "longest": max((line["text"] for line in lines), default=0),
        },
        "lines_that_spell_a_tag": sum(
            any(spells_tag(line[name]) for name in texts) for line in lines
        ),
    }
