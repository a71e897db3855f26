"""Rule-based quality: four scores of an instruction and its response, without a model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import set_column
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.stage import ModelStage, ModelStageConfig
from ray_pipeline.stages.scoring._heuristics.scorer import QualityScorer


class ScoreQuality(ModelStage):
    """Writes ``clarity``, ``response_quality``, ``diversity``, ``complexity``,
    ``quality_tokens``.

    The scores are stored separately: `WeighScores` combines them, and can do so again with other
    weights. A null counts as an empty text. Counts: rows with characters on which libraries
    differ, which are scored one by one (see `scoring._heuristics.characters`).
    """

    name = "score-quality"
    reads = {
        "instruction": pa.string(),
        "response": pa.string(),
    }
    writes = {
        "clarity": pa.float64(),
        "response_quality": pa.float64(),
        "diversity": pa.float64(),
        "complexity": pa.float64(),
        "quality_tokens": pa.int32(),
    }
    is_quick = True

    class Config(ModelStageConfig):
        tokenizer: str = Field(
            "gpt2-tokenizer",
            description="tokenizer used to count tokens: a packaged name, a folder or a Hugging "
            "Face id",
        )

    config: Config

    @property
    def models(self) -> Mapping[str, str]:
        """The tokenizer."""
        return {"tokenizer": self.config.tokenizer}

    def load(self) -> None:
        """Load the tokenizer."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker uses one core
        tokenizer = load_tokenizer(self.model("tokenizer"))
        if not tokenizer.is_fast:
            raise UserError(
                f"stages.{self.name}.tokenizer: '{self.config.tokenizer}' has only a slow "
                "tokenizer, written in Python; name one with a tokenizer.json."
            )
        self._scorer = QualityScorer(tokenizer)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Score every row."""
        before = self._scorer.rows_scored_singly
        scores = self._scorer(_texts(rows["instruction"]), _texts(rows["response"]))
        for name in ("clarity", "response_quality", "diversity", "complexity"):
            rows = set_column(rows, name, pa.array(getattr(scores, name), pa.float64()))
        rows = set_column(rows, "quality_tokens", pa.array(scores.tokens, pa.int32()))
        counts["rows_with_unusual_characters"] += self._scorer.rows_scored_singly - before
        return rows


def _texts(column: pa.ChunkedArray) -> pa.StringArray:
    """One array without nulls, of valid UTF-8 (else it raises, and the row fails)."""
    texts = pc.fill_null(column, "").combine_chunks()
    texts.validate(full=True)
    return texts
