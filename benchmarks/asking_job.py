"""The job of the two asking benchmarks: one question a row, the answer kept as it is."""

from __future__ import annotations

import pyarrow as pa

from ray_pipeline.llm.asking import Llm
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import AskStage, Row


class Ask(AskStage):
    """Asks about each row's text."""

    name = "ask"
    reads = {"text": pa.string()}
    writes = {"answer": pa.string()}

    async def ask(self, row: Row, llm: Llm) -> Row:
        return {**row, "answer": (await llm(self.prompt, text=row["text"])).text}


PIPELINE = Pipeline("asking", [Ask()])
