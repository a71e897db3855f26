"""A causal model's choice between candidates: how likely it finds each after the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import ModelStage, ModelStageConfig
from ray_pipeline.stages.compression.candidates import CANDIDATE


class ScoreCandidates(ModelStage):
    """Writes ``candidate_log_probs``: the log-probability of each candidate, in nats.

    That of its tokens and of the end of text, after the prompt and a line break: the model has the
    prompt before it, so that copied words cost little, skipped ones what their absence surprises,
    and every token something. Of candidates that may be taken the likeliest is (see
    `ChooseCompression`). No answer to the prompt is used.

    Null for candidates with a fault, and where there are no two to choose between.
    """

    name = "score-candidates"
    reads = {"prompt": pa.string(), "candidates": pa.list_(CANDIDATE)}
    writes = {"candidate_log_probs": pa.list_(pa.float64())}
    internal = ("candidate_log_probs",)
    in_plan = False

    class Config(ModelStageConfig):
        model: str | None = Field(
            None,
            description="causal language model that chooses between the candidates, such as "
            "smollm2-135m-instruct; null: the stage is off, and the order of "
            "`choose-compression.prefer` decides",
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
        """Score the candidates of every row."""
        prompts, texts, places = [], [], []
        columns = (rows["prompt"].to_pylist(), rows["candidates"].to_pylist())
        scores: list[list[float | None]] = []
        for row, (prompt, candidates) in enumerate(zip(*columns, strict=True)):
            scores.append([None] * len(candidates))
            usable = [n for n, candidate in enumerate(candidates) if candidate["fault"] is None]
            for number in usable if len(usable) > 1 else []:
                prompts.append(prompt.rstrip() + "\n")
                texts.append(candidates[number]["text"])
                places.append((row, number))
        if texts:
            scored = self._scorer.completions(prompts, texts, end=True)
            for (row, number), made in zip(places, scored, strict=True):
                # The last digits depend on the other texts of a batch. NaN: it was too long.
                total = round(made.total, 5)
                scores[row][number] = None if total != total else total
        counts["candidates scored"] += len(texts)
        column = pa.array(scores, pa.list_(pa.float64()))
        return set_column(rows, "candidate_log_probs", column)
