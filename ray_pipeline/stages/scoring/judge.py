"""A model's judgement of a row on the four dimensions that the heuristics measure.

The rubric is a prompt file with a JSON schema
(`configs/prompts/quality_tradeoff/judge_quality.yaml`): an integer for each dimension, whose range
is read from the schema and mapped to 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.stage import AskStage, Drop, Expand, Row, StageConfig
from ray_pipeline.stages.text.keys import text_hash

#: The judged dimensions and their weights in `judge_score`.
WEIGHTS = {"clarity": 0.25, "response_quality": 0.35, "diversity": 0.2, "complexity": 0.2}
_CUT = " [cut]"


class JudgeQuality(AskStage):
    """Writes a model's ratings of a share of the rows, 0 to 1, and their weighted mean.

    Which rows are judged depends on their text and the seed: the rows of a smaller share are among
    those of a larger one, and stored answers are not paid for again. All other rows have nulls,
    and so have rows without an instruction or a response.

    The prompt gets ``instruction`` and ``response``.
    """

    name = "judge-quality"
    reads = {
        "instruction": pa.string(),
        "response": pa.string(),
    }
    writes = {
        **{f"judge_{dimension}": pa.float64() for dimension in WEIGHTS},
        "judge_score": pa.float64(),
        "note": pa.string(),
    }

    class Config(StageConfig):
        llm: str | None = Field(
            None,
            description="language model that judges: a name under `llms`; null: the stage is off",
        )
        prompt: str = Field(
            "judge_quality", description="prompt file: its name without the suffix, or a path"
        )
        share: float = Field(
            1.0,
            ge=0,
            le=1,
            description="fraction of the rows that are judged; a larger fraction includes the "
            "rows of a smaller one",
        )
        max_chars: int = Field(
            8_000,
            ge=16,
            description="maximum number of characters of the instruction, and of the response, "
            "that the model is shown",
        )
        if_unusable: Literal["keep", "fail"] = Field(
            "keep",
            description="what happens to a row if the model gives no usable judgement: it is "
            "kept without scores and gets a `note`, or it fails. A row whose request got no "
            "answer at all fails in both cases",
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured or no rows are to be judged."""
        return self.config.llm is None or self.config.share == 0

    def check(self) -> None:
        """Check that the prompt's schema defines the range of each score."""
        ranges(self.prompt)

    @cached_property
    def _ranges(self) -> dict[str, tuple[float, float]]:
        return ranges(self.prompt)

    variables = ("instruction", "response")

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask the model to judge the row, if it is in the judged share."""
        instruction, response = row["instruction"] or "", row["response"] or ""
        row = {**row, **{name: None for name in self.writes if name != "note"}}
        has_both = bool(instruction.strip() and response.strip())
        if not has_both or not self._is_chosen(instruction, response):
            return row
        instruction, response = self._shown(instruction), self._shown(response)
        try:
            found = await llm(self.prompt, instruction=instruction, response=response)
        except AnswerError as error:
            return self.keep(row, "kept without scores", error)
        return {**row, **self._scores(found.value)}

    def _is_chosen(self, instruction: str, response: str) -> bool:
        drawn = text_hash([self.name, str(self.settings.seed), instruction, response]) / 2**64
        return bool(drawn < self.config.share)

    def _shown(self, text: str) -> str:
        limit = self.config.max_chars
        return text if len(text) <= limit else text[:limit] + _CUT

    def _scores(self, judged: Mapping[str, Any]) -> Row:
        scores = {
            name: (judged[name] - low) / (high - low) for name, (low, high) in self._ranges.items()
        }
        total = math.fsum(WEIGHTS[name] * score for name, score in scores.items())
        return {**{f"judge_{name}": score for name, score in scores.items()}, "judge_score": total}


def ranges(prompt: Prompt) -> dict[str, tuple[float, float]]:
    """The lowest and highest score of each dimension, from the prompt's schema.

    Raises:
        UserError: the schema does not define the range of a score.
    """
    schema = prompt.format.schema or {}
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    found = {}
    for name in WEIGHTS:
        field = properties.get(name)
        low, high = (_number(field, key) for key in ("minimum", "maximum"))
        if name not in required or low is None or high is None or low >= high:
            raise UserError(
                f"prompt {prompt.name}: answer: the judge needs a JSON schema that requires "
                f"'{name}' as an integer or number with a minimum and a larger maximum; "
                f"it has {field or 'nothing'}. "
                "See configs/prompts/quality_tradeoff/judge_quality.yaml"
            )
        found[name] = (low, high)
    return found


def _number(field: Any, key: str) -> float | None:
    """A bound of a field of a JSON schema that holds a number."""
    if not isinstance(field, dict) or field.get("type") not in ("integer", "number"):
        return None
    bound = field.get(key)
    return float(bound) if isinstance(bound, int | float) else None
