"""Equal rows, questions with several answers, and answers with several questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import DROPPED
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage, StageConfig
from ray_pipeline.stages.text.keys import normalised, pair_keys, ranks, run_starts


class ExactDuplicates(DecideStage):
    """Keeps one of the rows with the same texts: the one with the longest texts.

    Texts are compared without case, punctuation and white space. Ties are broken by the smaller
    hash of content and row id, so the winner never depends on the order of rows or files.

    Args:
        columns: columns that must all be equal.
        export: name of the exported file, for a second stage of this kind.
        options: as for `Stage`.
    """

    name = "exact-duplicates"
    writes = {
        "duplicate_of": pa.string(),
        "duplicate_similarity": pa.float32(),
    }
    export = "exact_duplicate_qa_pairs.csv"

    def __init__(self, *columns: str, export: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.columns = columns
        self.export = export or self.export

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns that must be equal."""
        return dict.fromkeys(self.columns, pa.string())

    def keys(self, rows: pa.Table) -> pa.Table:
        """Two halves of a 128-bit key, and the rank among equals."""
        texts = [rows[column].to_pylist() for column in self.columns]
        normal = [[normalised(text) for text in column] for column in texts]
        key, check = pair_keys(normal, self.settings.seed)
        rank = ranks(texts, rows["row_id"].to_pylist())
        return pa.table(
            {REF: rows[REF], "row_id": rows["row_id"], "key": key, "check": check, "rank": rank}
        )

    def decide(self, keys: Tables) -> Tables:
        """Drop all rows of each group except the best one."""
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


class SameText(DecideStage):
    """Marks rows that agree in one column and differ in the other: ``same_COLUMN_group``.

    The mark is the row id of the group's best row; it is null outside groups. Exact duplicates
    have been dropped before.

    Args:
        column: column in which the rows agree. The stage's name is ``same-COLUMN``.
        pair: the two columns of a row.
        defaults: of the configuration.
    """

    class Config(StageConfig):
        keep: Literal["all", "best", "none"] = Field(
            "all",
            description="rows of a group that are kept: `all` of them, marked with their group; "
            "the `best` one, which has the longest text; or `none`, because it is unknown which "
            "one is correct",
        )
        ignore: tuple[str, ...] = Field(
            (),
            description='texts that many unrelated rows share, such as "yes"; rows that have '
            "only such a text in common are not grouped",
        )

    config: Config

    def __init__(
        self, column: str, pair: tuple[str, str] = ("question", "answer"), **defaults: Any
    ) -> None:
        super().__init__(**{"name": f"same-{column}", **defaults})
        self.column, self.pair = column, pair
        self.evidence = f"same_{column}_group"
        other = pair[1] if column == pair[0] else pair[0]
        self.export = f"same_{column}_diff_{other}s.csv"

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The two columns of a row that are compared."""
        return dict.fromkeys(self.pair, pa.string())

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """The column with the id of the group."""
        return {self.evidence: pa.string()}

    def keys(self, rows: pa.Table) -> pa.Table:
        """The key of the shared text; rows with an empty or ignored text are left out."""
        texts = [normalised(text) for text in rows[self.column].to_pylist()]
        ignored = {"", *(normalised(text) for text in self.config.ignore)}
        rows = rows.append_column("text", pa.array(texts, pa.string()))
        rows = rows.filter(pc.invert(pc.is_in(rows["text"], pa.array(sorted(ignored)))))
        key, check = pair_keys([rows["text"].to_pylist()], self.settings.seed)
        both = [rows[name].to_pylist() for name in self.pair]
        rank = ranks(both, rows["row_id"].to_pylist())
        return pa.table(
            {REF: rows[REF], "row_id": rows["row_id"], "key": key, "check": check, "rank": rank}
        )

    def decide(self, keys: Tables) -> Tables:
        """Mark the rows of groups of two or more; drop those that the configuration drops."""
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
        """The rows of groups, sorted by group within the unit."""
        grouped = rows.filter(pc.is_valid(rows[self.evidence]))
        columns = [self.evidence, "row_id", *self.pair, "status"]
        return grouped.select(columns).sort_by([(name, "ascending") for name in columns[:2]])
