"""Dropping outliers: rules and clusters find candidates, and a language model judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.rows import kept
from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, AskStageConfig, Drop, Expand, Row


class Outliers(AskStage):
    """Drops rows that are not of the same kind as the others.

    A row is suspect if it breaks a rule (``outlier_rule``), or if it lies outside every cluster
    with a score above the threshold. The model has the last word on suspects. The evidence is
    stored with the row: ``outlier_rule``, ``outlier_cluster``, ``outlier_score``,
    ``outlier_verdict``.
    """

    name = "outliers"
    reads = {
        "question": pa.string(),
        "answer": pa.string(),
        "outlier_rule": pa.string(),
        "outlier_cluster": pa.int64(),
        "outlier_score": pa.float32(),
    }
    writes = {
        "outlier_verdict": pa.string(),
        "note": pa.string(),
    }
    export = "discarded_rows.csv"

    class Config(AskStageConfig):
        llm: str = Field("judge", description="language model that judges: a name under `llms`")
        prompt: str = Field(
            "outlier_judge",
            description="prompt file whose answer format is a label: its name without the "
            "suffix, or a path",
        )
        max_score: float = Field(
            0.3,
            ge=0,
            le=1,
            description="GLOSH outlier score (0 to 1) above which a row outside all clusters is "
            "suspect",
        )
        judge: Literal["suspects", "all", "never"] = Field(
            "suspects",
            description="which rows the model judges: the suspects or all; never: suspects are "
            "dropped without asking a model",
        )
        trusted_rules: tuple[str, ...] = Field(
            (),
            description="rules (`outlier-rules.patterns`, or `language`) whose matches are "
            "dropped without asking a model",
        )
        keep_label: str = Field(
            "question",
            description="label of rows that are kept; rows with any other label are dropped",
        )
        if_unusable: Literal["fail", "keep"] = Field(
            "fail",
            description="what happens to a row if the model gives no usable label: it fails or "
            "is kept",
        )

    config: Config

    variables = ("question", "answer")

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Judge the row, unless it is clear without asking the model."""
        suspicion = self._suspicion(row)
        trusted = row["outlier_rule"] in self.config.trusted_rules
        if suspicion and (trusted or self.config.judge == "never"):
            return Drop(suspicion)
        if suspicion is None and self.config.judge != "all":
            return row
        try:
            found = await llm(self.prompt, question=row["question"], answer=row["answer"])
        except AnswerError as error:
            return self.keep(row, "kept without a verdict", error)
        judged = {**row, "outlier_verdict": str(found.value)}
        if judged["outlier_verdict"] != self.config.keep_label:
            return Drop(suspicion or "outlier:judge", judged)
        return judged

    def _suspicion(self, row: Row) -> str | None:
        """The reason why the row is suspect; None if it is not."""
        if row["outlier_rule"]:
            return f"outlier:rule: {row['outlier_rule']}"
        score = row["outlier_score"]
        if row["outlier_cluster"] == -1 and score is not None and score > self.config.max_score:
            return f"outlier:cluster: score {score:.2f}"
        return None

    def exports(self) -> Mapping[str, Callable[[pa.Table], pa.Table]]:
        """The dropped rows, and the kept rows in ``SOAP_QA.csv``."""
        return {**super().exports(), "SOAP_QA.csv": kept}
