"""Rows to token ids with a mask of the answer: computed once, for every training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import DROPPED, drop, set_column
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.stage import ModelStage, ModelStageConfig, StageConfig


class TokeniseConfig(ModelStageConfig):
    """Configuration of `Tokenise`."""

    model: str = Field(
        "smollm2-135m-instruct", description="whose tokenizer; teacher and student have the same"
    )
    text: TextConfig = TextConfig()


class InstructionText(TextConfig):
    """How an instruction and its response become a text to learn as a whole."""

    style: Literal["auto", "chat", "plain"] = "plain"
    prompt: str = "Instruction: {question}\nResponse:"
    question_column: str = "instruction"
    answer_column: str = "response"
    learn: Literal["answer", "all"] = "all"


class TokeniseInstructionsConfig(TokeniseConfig):
    """Configuration of `TokeniseInstructions`."""

    model: str = Field("gpt2-tokenizer", description="whose tokenizer")
    text: InstructionText = InstructionText()


class Tokenise(ModelStage):
    """Writes ``input_ids`` and ``answer_mask`` (see `models.text`).

    Rows that cannot be trained on are dropped: without question or answer, or with a prompt that
    leaves no room for the answer. Answers that lost their end are counted.
    """

    name: ClassVar[str] = "tokenise"
    reads: ClassVar[Mapping[str, pa.DataType]] = {"question": pa.string(), "answer": pa.string()}
    writes: ClassVar[Mapping[str, pa.DataType]] = {
        "input_ids": pa.list_(pa.int32()),
        "answer_mask": pa.list_(pa.bool_()),
    }
    internal: ClassVar[Collection[str]] = ("input_ids", "answer_mask")
    is_quick: ClassVar[bool] = True
    Config: ClassVar[type[StageConfig]] = TokeniseConfig

    @classmethod
    def models(cls, config: Any) -> Mapping[str, str]:
        """The tokenizer's model."""
        return {"model": config.model}

    def load(self) -> None:
        """Load the tokenizer."""
        self._tokenise = Tokeniser(load_tokenizer(self.model("model")), self.config.text)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Tokenise every row."""
        made = self._tokenise(rows)
        for name in self.writes:
            rows = set_column(rows, name, made[name].combine_chunks())
        rows = drop(rows, pc.equal(made["status"], DROPPED), made["reason"].combine_chunks())
        cut = made["tokens_cut"]
        counts["answers_cut"] += pc.sum(pc.greater(cut, 0)).as_py() or 0
        counts["tokens_cut"] += pc.sum(cut).as_py() or 0
        return rows


class TokeniseInstructions(Tokenise):
    """The same of instructions and responses, for a model that is trained from scratch."""

    reads: ClassVar[Mapping[str, pa.DataType]] = {
        "instruction": pa.string(),
        "response": pa.string(),
    }
    Config: ClassVar[type[StageConfig]] = TokeniseInstructionsConfig
