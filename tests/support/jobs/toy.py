"""A job for tests: every kind of stage that needs no model of its own, and small.

Words in a text steer what happens to its row: ``boom`` raises, ``kill`` takes the process down,
``stuck`` takes for ever in native code, ``twin`` makes a second row, ``drop`` drops it, ``slow``
takes its time, ``bad-answer`` makes every answer unusable.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ray_pipeline.core.config import Execution
from ray_pipeline.core.rows import created_row_id, drop, set_column
from ray_pipeline.core.tables import Tables
from ray_pipeline.llm.asking import Llm
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import AskStage, AskStageConfig, DecideStage, MapStage, Row, StageConfig


class ShoutConfig(StageConfig):
    suffix: str = "!"
    pace: Annotated[int, Execution] = 1


class Shout(MapStage):
    """Upper case; drops, doubles, raises or dies as the text says."""

    name = "shout"
    reads = {"text": pa.string()}
    writes = {"text": pa.string(), "shout": pa.string()}
    Config = ShoutConfig
    export = "dropped.csv"

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        texts = rows["text"].to_pylist()
        if any("boom" in text for text in texts):
            raise ValueError("the text says boom")
        if any("kill" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("stuck" in text for text in texts):
            # Exponential, without giving the interpreter back.
            re.match(r"(a+)+$", "a" * 60 + "b")
        if any("slow" in text for text in texts):
            time.sleep(0.3)
        counts["shouted"] += len(texts)
        shouted = pa.array([text.upper() + self.config.suffix for text in texts], pa.string())
        out = set_column(rows, "shout", shouted)
        out = drop(out, pc.match_substring(out["text"], "drop"), "toy:dropped: it says so")
        return pa.concat_tables([out, self._twins(rows)], promote_options="default")

    def _twins(self, rows: pa.Table) -> pa.Table:
        twins = rows.filter(pc.match_substring(rows["text"], "twin"))
        ids = twins["row_id"].to_pylist()
        made = set_column(twins, "parent_id", twins["row_id"])
        new = pa.array([created_row_id(i, self.name, 0) for i in ids], pa.string())
        return set_column(made, "row_id", new)


class Whisper(MapStage):
    """Lower case of the shout."""

    name = "whisper"
    writes = {"whisper": pa.string()}

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        return set_column(rows, "whisper", pc.utf8_lower(rows["shout"]))


class First(DecideStage):
    """Keeps one row of each text: the one with the smallest id."""

    name = "first"
    reads = {"text": pa.string()}
    writes = {"winner": pa.string()}

    def keys(self, rows: pa.Table) -> pa.Table:
        hashes = [xxhash.xxh3_64_intdigest(text.encode()) for text in rows["text"].to_pylist()]
        key = pa.array(hashes, pa.uint64())
        return rows.select(["ref", "row_id", "text"]).append_column("key", key)

    def decide(self, keys: Tables) -> Tables:
        return keys.group(["key"], self.losers, order=["row_id"])

    def losers(self, groups: pa.Table) -> pa.Table:
        made = []
        winners: dict[int, str] = {}
        for row in groups.to_pylist():
            winner = winners.setdefault(row["key"], row["row_id"])
            if winner != row["row_id"]:
                made.append({"ref": row["ref"], "winner": winner})
        table = pa.Table.from_pylist(
            made, pa.schema([("ref", pa.int64()), ("winner", pa.string())])
        )
        for name, value in (("status", "dropped"), ("reason", "duplicate:exact")):
            table = table.append_column(name, pa.array([value] * len(made), pa.string()))
        return table


class Ask(AskStage):
    """Asks the model about each row."""

    name = "ask"
    writes = {"answer": pa.string()}
    Config = AskStageConfig
    export = None

    variables = ("text",)

    async def ask(self, row: Row, llm: Llm) -> Row:
        def check(text: str) -> str | None:
            return "it was asked to be bad" if "bad-answer" in row["text"] else None

        answer = await llm(self.prompt, text=row["text"], check=check)
        return {**row, "answer": answer.text}


PIPELINE = Pipeline("toy", [Shout(), Whisper(), First(), Ask()])
