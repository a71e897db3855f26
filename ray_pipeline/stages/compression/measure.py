"""The prompts before anything is done to them: their tokens, and which cannot be compressed."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
from pydantic import Field, field_validator

from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.stage import MapStage, Stage, StageConfig
from ray_pipeline.stages.compression.deletion import Prompt
from ray_pipeline.stages.compression.tokens import CountsTokens


class MeasurePrompts(CountsTokens, MapStage):
    """Writes ``prompt_tokens``, and ``tokenizer``, the name of what counted them.

    Drops prompts that are too long (``prompt:too_long``), and those in which every word must stay,
    such as only code or only emoji (``prompt:nothing_to_compress``).

    All stages of prompt compression count tokens with the tokenizer that is named here.
    """

    name = "measure-prompts"
    reads = {"prompt": pa.string()}
    writes = {"prompt_tokens": pa.int64(), "tokenizer": pa.string()}
    export = "prompts_not_compressed.csv"

    class Config(StageConfig):
        tokenizer: str = Field(
            "gpt2-tokenizer",
            description="model whose tokenizer counts all tokens: that of the model whose "
            "prompts are paid for",
        )
        max_tokens: int = Field(
            1024, ge=1, description="longest prompt that is compressed, in tokens"
        )
        protect: tuple[str, ...] = Field(
            (),
            description="regular expressions whose matches must stay, besides code, markup, JSON, "
            "URLs, quotations, numbers, negations, names and constraints on the answer",
        )

        @field_validator("protect")
        @classmethod
        def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
            return patterns

    config: Config

    @property
    def tokenizer(self) -> str:
        """Name of the tokenizer."""
        return self.config.tokenizer

    @property
    def patterns(self) -> list[re.Pattern[str]]:
        """What the configuration protects."""
        return [re.compile(pattern) for pattern in self.config.protect]

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Count the tokens of every prompt, and drop those that cannot be compressed."""
        prompts = rows["prompt"].to_pylist()
        limit = self.config.max_tokens
        tokens = [self.count(text) for text in prompts]
        rows = set_column(rows, "prompt_tokens", pa.array(tokens, pa.int64()))
        named = pa.array([self.config.tokenizer] * rows.num_rows, pa.string())
        rows = set_column(rows, "tokenizer", named)
        long = [
            f"prompt:too_long: {number:,} tokens, at most {limit:,}" if number > limit else None
            for number in tokens
        ]
        rows = _dropped(rows, long)
        nothing = [
            None
            if reason is not None or Prompt(text, self.patterns).free
            else "prompt:nothing_to_compress: every word must stay"
            for text, reason in zip(prompts, long, strict=True)
        ]
        return _dropped(rows, nothing)


def _dropped(rows: pa.Table, reasons: list[str | None]) -> pa.Table:
    column = pa.array(reasons, pa.string())
    return drop(rows, column.is_valid(), column)


class AfterMeasuring(CountsTokens):
    """Base of the stages that count tokens as `MeasurePrompts` does, and protect what it does."""

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """`MeasurePrompts`, which names the tokenizer."""
        return (MeasurePrompts,)

    @property
    def measure(self) -> MeasurePrompts:
        """The stage that names the tokenizer and what is protected."""
        return self.stage_of(MeasurePrompts)

    @property
    def tokenizer(self) -> str:
        """Name of the tokenizer."""
        return self.measure.config.tokenizer

    @property
    def patterns(self) -> list[re.Pattern[str]]:
        """What the configuration protects."""
        return self.measure.patterns
