"""Small tables with their envelope, and a scripted language model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.llm.asking import Answer, AnswerError
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat
from ray_pipeline.rundir.responses import Response
from ray_pipeline.stage import AskStage, Drop, Expand, Row, Settings


def table(pairs: Sequence[tuple[str | None, str | None]], **columns: Sequence[Any]) -> pa.Table:
    """Rows of questions and answers, with further string columns."""
    data = {
        "question": pa.array([q for q, _ in pairs], pa.string()),
        "answer": pa.array([a for _, a in pairs], pa.string()),
        **{name: pa.array(values, pa.string()) for name, values in columns.items()},
    }
    return with_envelope(pa.table(data), [f"row{i}" for i in range(len(pairs))])


def reasons(rows: pa.Table) -> list[str | None]:
    """The reasons of all rows, in order."""
    found: list[str | None] = rows["reason"].to_pylist()
    return found


class ScriptedLlm:
    """Answers with the given texts in turn, each put to the stage's check first.

    Like the real one it asks again when a text is not usable, and raises when none is left.
    """

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[dict[str, Any]] = []
        self.complaints: list[str] = []

    async def __call__(
        self,
        prompt: Prompt,
        /,
        *,
        check: Callable[[str], str | None] | None = None,
        sample: int = 0,
        **values: Any,
    ) -> Answer:
        self.asked.append(values)
        text = None
        while self.texts:
            text = self.texts.pop(0)
            complaint = check(text) if check else None
            if complaint is None:
                return Answer(text, text, Response(text, "stop", 1, 1))
            self.complaints.append(complaint)
        raise AnswerError("unusable", "; ".join(self.complaints), answer=text)


def settings(*prompts: str) -> Settings:
    """Settings with prompts that hold nothing but their names, and one language model."""
    return Settings(
        prompts={p: Prompt(p, None, p, {}, AnswerFormat()) for p in prompts},
        llms={"formal": {"model": "scripted"}},
    )


def ask(stage: AskStage, row: Row, llm: ScriptedLlm) -> Row:
    """The row that a stage makes of ``row``."""
    result = asyncio.run(_ask(stage, row, llm))
    assert isinstance(result, dict)
    return result


def expand(stage: AskStage, row: Row, llm: ScriptedLlm) -> tuple[Row, list[Row]]:
    """The row, and the rows made from it, that a stage makes of ``row``."""
    result = asyncio.run(_ask(stage, row, llm))
    assert isinstance(result, Expand)
    return result.row, result.created


async def _ask(stage: AskStage, row: Row, llm: ScriptedLlm) -> Row | Drop | Expand:
    result = await stage.ask(row, llm)
    # A prompt is checked against what the stage declares, so that must be what it passes.
    assert all(set(values) == set(stage.variables or ()) for values in getattr(llm, "asked", ()))
    return result
