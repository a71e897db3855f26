"""Equal rows, questions with several answers, and answers with several questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import DROPPED
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage, StageConfig
from ray_pipeline.stages.text.keys import normalised, pair_keys, ranks, run_starts


class ExactDuplicates(DecideStage):
    """Of rows with the same question and answer one stays: the one with the longest text.

    Equal means equal without case, punctuation and white space. Ties go to the smaller hash of
    content and row id, so that the winner never depends on the order of rows or files.
    """

    name: ClassVar[str] = "exact-duplicates"
    reads: ClassVar[Mapping[str, pa.DataType]] = {"question": pa.string(), "answer": pa.string()}
    writes: ClassVar[Mapping[str, pa.DataType]] = {
        "duplicate_of": pa.string(),
        "duplicate_similarity": pa.float32(),
    }
    export: ClassVar[str | None] = "exact_duplicate_qa_pairs.csv"
    #: Columns that must all be equal.
    columns: ClassVar[Sequence[str]] = ("question", "answer")

    def keys(self, rows: pa.Table) -> pa.Table:
        """Two halves of a 128-bit key, and the rank among equals."""
        texts = [rows[column].to_pylist() for column in self.columns]
        key, check = pair_keys([[normalised(text) for text in column] for column in texts])
        rank = ranks(texts, rows["row_id"].to_pylist())
        return pa.table(
            {REF: rows[REF], "row_id": rows["row_id"], "key": key, "check": check, "rank": rank}
        )

    def decide(self, keys: Tables) -> Tables:
        """All but the best of each group are dropped."""
        return keys.group(["key", "check"], _losers, order=["rank", "row_id"])


def _losers(groups: pa.Table) -> pa.Table:
    first = run_starts(groups["key"], groups["check"])
    winner = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    lost = pa.array(~first)
    winners = groups["row_id"].take(pa.array(winner)).filter(lost)
    number = len(winners)
    return pa.table(
        {
            REF: groups[REF].filter(lost),
            "status": pa.array([DROPPED] * number, pa.string()),
            "reason": pa.array(["duplicate:exact"] * number, pa.string()),
            "duplicate_of": winners,
            "duplicate_similarity": pa.array(np.ones(number, dtype=np.float32)),
        }
    )


class SharedTextConfig(StageConfig):
    """Configuration of `SameQuestion` and `SameAnswer`."""

    keep: Literal["all", "best", "none"] = Field(
        "all",
        description="which rows of a group stay: all, marked with their group; the one with the "
        "longest text; or none, since nobody knows which one is right",
    )
    ignore: tuple[str, ...] = Field((), description="texts that many rows share by nature")


class _SharedText(DecideStage):
    """Rows that agree in one column and differ in the other. Exact duplicates are gone by now."""

    #: The column that agrees.
    column: ClassVar[str]
    #: Name of the evidence: the row id of the group's best row, null outside of groups.
    evidence: ClassVar[str]
    reads: ClassVar[Mapping[str, pa.DataType]] = {"question": pa.string(), "answer": pa.string()}

    def keys(self, rows: pa.Table) -> pa.Table:
        """The key of the shared text, of the rows that have one."""
        texts = [normalised(text) for text in rows[self.column].to_pylist()]
        ignored = {"", *(normalised(text) for text in self.config.ignore)}
        rows = rows.append_column("text", pa.array(texts, pa.string()))
        rows = rows.filter(pc.invert(pc.is_in(rows["text"], pa.array(sorted(ignored)))))
        key, check = pair_keys([rows["text"].to_pylist()])
        both = [rows["question"].to_pylist(), rows["answer"].to_pylist()]
        rank = ranks(both, rows["row_id"].to_pylist())
        return pa.table(
            {REF: rows[REF], "row_id": rows["row_id"], "key": key, "check": check, "rank": rank}
        )

    def decide(self, keys: Tables) -> Tables:
        """Rows of groups of two and more, marked, and dropped where the configuration says so."""
        return keys.group(["key", "check"], self._groups, order=["rank", "row_id"])

    def _groups(self, groups: pa.Table) -> pa.Table:
        first = run_starts(groups["key"], groups["check"])
        number = np.cumsum(first) - 1
        shared = np.bincount(number)[number] > 1 if len(first) else first
        best = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
        dropped = {"all": np.zeros_like(first), "best": ~first, "none": shared}[self.config.keep]
        reason = f"duplicate:{self.evidence.removesuffix('_group')}"
        table = pa.table(
            {
                REF: groups[REF],
                "status": pc.if_else(pa.array(dropped), DROPPED, pa.scalar(None, pa.string())),
                "reason": pc.if_else(pa.array(dropped), reason, pa.scalar(None, pa.string())),
                self.evidence: groups["row_id"].take(pa.array(best)),
            }
        )
        return table.filter(pa.array(shared))

    def exported(self, rows: pa.Table) -> pa.Table:
        """The rows of groups, group by group as far as they lie in one unit."""
        grouped = rows.filter(pc.is_valid(rows[self.evidence]))
        columns = [self.evidence, "row_id", "question", "answer", "status"]
        return grouped.select(columns).sort_by([(name, "ascending") for name in columns[:2]])


class SameQuestion(_SharedText):
    """Marks questions that come with different answers."""

    name: ClassVar[str] = "same-question"
    column: ClassVar[str] = "question"
    evidence: ClassVar[str] = "same_question_group"
    writes: ClassVar[Mapping[str, pa.DataType]] = {"same_question_group": pa.string()}
    export: ClassVar[str | None] = "same_question_diff_answers.csv"
    Config: ClassVar[type[StageConfig]] = SharedTextConfig


class SameAnswerConfig(SharedTextConfig):
    """Configuration of `SameAnswer`."""

    ignore: tuple[str, ...] = Field(
        ("true", "false", "yes", "no", "all of the above", "none of the above"),
        description="answers that many questions share by nature",
    )


class SameAnswer(_SharedText):
    """Marks answers that come with different questions."""

    name: ClassVar[str] = "same-answer"
    column: ClassVar[str] = "answer"
    evidence: ClassVar[str] = "same_answer_group"
    writes: ClassVar[Mapping[str, pa.DataType]] = {"same_answer_group": pa.string()}
    export: ClassVar[str | None] = "same_answer_diff_questions.csv"
    Config: ClassVar[type[StageConfig]] = SameAnswerConfig
