"""Tokenisation of rows, with a mask of the answer tokens; done once for all trainings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import DROPPED, drop, set_column
from ray_pipeline.models.control_tokens import ROWS_WITH_CONTROL_TEXT
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.stage import ModelStage, ModelStageConfig


class Tokenise(ModelStage):
    """Writes ``input_ids`` and ``answer_mask`` (see `models.text`).

    Rows that cannot be trained on are dropped: those without question or answer, and those whose
    prompt leaves no room for the answer. Truncated answers are counted.

    Args:
        question: column with the question.
        answer: column with the answer.
        defaults: of the configuration.
    """

    name = "tokenise"
    writes = {
        "input_ids": pa.list_(pa.int32()),
        "answer_mask": pa.list_(pa.bool_()),
    }
    internal = ("input_ids", "answer_mask")
    is_quick = True

    class Config(ModelStageConfig):
        model: str = Field(
            "smollm2-135m-instruct",
            description="model whose tokenizer is used; teacher and student must share it",
        )
        text: TextConfig = TextConfig()

    config: Config

    def __init__(
        self, question: str, answer: str, text: Mapping[str, Any] | None = None, **defaults: Any
    ) -> None:
        columns = {"question_column": question, "answer_column": answer}
        super().__init__(text={**columns, **(text or {})}, **defaults)
        self._columns = (question, answer)

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """Both columns."""
        return dict.fromkeys(self._columns, pa.string())

    @property
    def tokenizer(self) -> str:
        """Folder or hub id of the tokenizer."""
        return self.model("model")

    @property
    def models(self) -> Mapping[str, str]:
        """The model whose tokenizer is used."""
        return {"model": self.config.model}

    def load(self) -> None:
        """Load the tokenizer."""
        self._tokenise = Tokeniser(load_tokenizer(self.tokenizer), self.config.text)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Tokenise every row."""
        made = self._tokenise(rows)
        for name in self.writes:
            rows = set_column(rows, name, made[name].combine_chunks())
        rows = drop(rows, pc.equal(made["status"], DROPPED), made["reason"].combine_chunks())
        counts[ROWS_WITH_CONTROL_TEXT] += self._tokenise.with_control_text(rows)
        cut = made["tokens_cut"]
        counts["answers_cut"] += pc.sum(pc.greater(cut, 0)).as_py() or 0
        counts["tokens_cut"] += pc.sum(cut).as_py() or 0
        return rows
