"""Baselines for every compression: the same prompt, made as short by other means.

A baseline deletes whole words, keeps the same protected words, and stops at the tokens of the
compression it is compared with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, ModelStage, ModelStageConfig, StageConfig
from ray_pipeline.stages.compression.deletion import Prompt
from ray_pipeline.stages.compression.measure import AfterMeasuring

#: Columns of texts with one baseline each; `baseline_random` is a list.
RULES, FIRST, SURPRISE = "baseline_rules", "baseline_first_words", "baseline_surprise"
RANDOM = "baseline_random"


class ScoreWords(AfterMeasuring, ModelStage):
    """Writes ``word_surprise``: how surprising a small causal model finds each word of a prompt.

    A word's surprise is the sum over its tokens of the negative log-probability given all before
    it, in nats, as in Selective Context and the first version of LLMLingua (Li et al. 2023,
    arXiv 2310.06201; Jiang et al. 2023, arXiv 2310.05736). Of what a model predicts, little is
    lost when it is left out.
    """

    name = "score-words"
    reads = {"prompt": pa.string()}
    writes = {"word_surprise": pa.list_(pa.float64())}
    internal = ("word_surprise",)
    in_plan = False

    class Config(ModelStageConfig):
        model: str | None = Field(
            "smollm2-135m-instruct",
            description="small causal language model; null: the stage is off, and the baseline is "
            "left out",
        )
        batch_tokens: Annotated[int, Execution] = Field(
            4096, ge=1, description="tokens per forward pass, padding included"
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.model is None

    @property
    def models(self) -> Mapping[str, str]:
        """The model."""
        return {} if self.config.model is None else {"model": self.config.model}

    def load(self) -> None:
        """Load the model."""
        from ray_pipeline.evaluate.log_probs import TextScorer

        device = "cuda" if self.config.num_gpus else "cpu"
        self._scorer = TextScorer.load(self.model("model"), device, self.config.batch_tokens)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Score the words of every prompt."""
        prompts = rows["prompt"].to_pylist()
        found = word_surprise(self._scorer, prompts)
        # The last digits depend on the other rows of a batch.
        rounded = [np.round(scores, 5).tolist() for scores in found]
        return set_column(rows, "word_surprise", pa.array(rounded, pa.list_(pa.float64())))


def word_surprise(scorer: Any, texts: Sequence[str]) -> list[list[float]]:
    """The surprise of each word of each text, in nats; 0 for words beyond the model's context.

    Args:
        scorer: an `evaluate.log_probs.TextScorer`.
        texts: each with a character at least.
    """
    found = []
    for text, scored in zip(texts, scorer.texts(texts), strict=True):
        words = Prompt(text).words
        sums = [0.0] * len(words)
        starts = np.array([word.start for word in words])
        ends = np.array([word.end for word in words])
        for (start, end), value in zip(scored.spans, scored.log_probs, strict=True):
            if math.isnan(value):
                continue
            # A token may hold the space before its word: it belongs to the word that it ends in.
            place = int(np.searchsorted(ends, max(start, end - 1), side="right"))
            if place < len(words) and end > starts[place]:
                sums[place] -= float(value)
        found.append(sums)
    return found


class MatchBaselines(AfterMeasuring, MapStage):
    """Writes a text for each baseline, as short as the row's ``compressed_prompt``.

    - ``baseline_rules``: articles, filler, then stop words dropped by rule, as far as there are
      any: it may stay longer than the compression;
    - ``baseline_first_words``: words dropped from the end;
    - ``baseline_random``: words dropped at random, once for each draw;
    - ``baseline_surprise``: the words dropped that a model finds least surprising (`ScoreWords`);
      null if that stage is off.

    A baseline that protected words keep from becoming as short is counted.
    """

    name = "match-baselines"
    uses_seed = True

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The prompt and what its compression has come to."""
        return {"prompt": pa.string(), "compressed_tokens": pa.int64()}

    writes = {
        RULES: pa.string(),
        FIRST: pa.string(),
        RANDOM: pa.list_(pa.string()),
        SURPRISE: pa.string(),
    }

    class Config(StageConfig):
        draws: int = Field(5, ge=1, description="number of random baselines of each row")

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Make the baselines of every row."""
        scores: list[Any] = [None] * rows.num_rows
        if "word_surprise" in rows.column_names:
            scores = rows["word_surprise"].to_pylist()
        made: dict[str, list[Any]] = {name: [] for name in self.writes}
        columns = (rows["prompt"].to_pylist(), rows["compressed_tokens"].to_pylist(), scores)
        for text, tokens, of_words in zip(*columns, strict=True):
            baselines = self.of(text, tokens, of_words)
            for name, value in baselines.items():
                made[name].append(value)
                for one in value if isinstance(value, list) else [value]:
                    if one is not None and self.count(one) > tokens:
                        counts[f"{name}: longer than the compression"] += 1
        for name, kind in self.writes.items():
            rows = set_column(rows, name, pa.array(made[name], kind))
        return rows

    def of(self, text: str, tokens: int, scores: Sequence[float] | None) -> dict[str, Any]:
        """The baselines of one prompt with at most some tokens."""
        prompt = Prompt(text, self.patterns)

        def cut(order: Sequence[int]) -> str:
            return prompt.shortened(order, tokens, self.count)

        seed = self.settings.seed
        draws = [cut(prompt.random_order(seed, draw)) for draw in range(self.config.draws)]
        surprise = None if scores is None else cut(prompt.least_first(scores))
        return {
            RULES: cut(prompt.rule_order()),
            FIRST: cut(prompt.from_the_end()),
            RANDOM: draws,
            SURPRISE: surprise,
        }
