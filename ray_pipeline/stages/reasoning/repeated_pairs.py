"""Pairs that are in the source several times, and pairs with two labels."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import DROPPED
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage, StageConfig
from ray_pipeline.stages.reasoning.validate_pairs import HYPOTHESIS, LABEL, PAIR, PREMISE
from ray_pipeline.stages.text.keys import normalised, pair_keys, ranks, run_starts, text_hash

_NOTHING = pa.scalar(None, pa.string())


class RepeatedPairs(DecideStage):
    """Reports equal pairs: ``repeated_pairs.csv``; and drops them where configured.

    Pairs are equal if premise and hypothesis are, but for case, punctuation and white space.
    ``pair_group`` names the pairs that are equal, ``pair_labels`` is how many labels they have.
    Of pairs with two labels at least one is wrong; which one is unknown, so all of them stay or go.
    """

    name = "repeated-pairs"
    reads = {**PAIR, LABEL: pa.string()}
    writes = {"pair_group": pa.string(), "pair_labels": pa.int64()}
    export = "repeated_pairs.csv"

    class Config(StageConfig):
        repeats: Literal["keep", "drop"] = Field(
            "keep",
            description="keep: equal pairs with one label are reported; drop: one of them is kept. "
            "A test file whose rows were dropped no longer gives the figures of others",
        )
        two_labels: Literal["keep", "drop"] = Field(
            "keep",
            description="keep: equal pairs with two labels are reported; drop: all are dropped",
        )

    config: Config

    def keys(self, rows: pa.Table) -> pa.Table:
        """Two halves of a 128-bit key of the pair, and a hash of its label."""
        texts = [[normalised(text) for text in rows[name].to_pylist()] for name in PAIR]
        key, check = pair_keys(texts, self.settings.seed)
        row_ids = rows["row_id"].to_pylist()
        labels = [text_hash(["label", label or ""]) for label in rows[LABEL].to_pylist()]
        return pa.table(
            {
                REF: rows[REF],
                "row_id": rows["row_id"],
                "key": key,
                "check": check,
                "rank": ranks([rows[PREMISE].to_pylist(), rows[HYPOTHESIS].to_pylist()], row_ids),
                "label_hash": pa.array(labels, pa.uint64()),
            }
        )

    def decide(self, keys: Tables) -> Tables:
        """Mark the pairs that are there several times."""
        return keys.group(["key", "check"], self._groups, order=["rank", "row_id"])

    def _groups(self, groups: pa.Table) -> pa.Table:
        first = run_starts(groups["key"], groups["check"])
        number = np.cumsum(first) - 1
        sizes = np.bincount(number)[number] if len(first) else number
        hashes = groups["label_hash"].to_numpy()
        kinds = np.unique(np.stack([number.astype(np.uint64), hashes]), axis=1)[0]
        labels = np.bincount(kinds.astype(np.int64))[number] if len(first) else number
        best = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
        differ = labels > 1
        dropped = np.zeros(len(first), bool)
        if self.config.repeats == "drop":
            dropped |= ~differ & ~first
        if self.config.two_labels == "drop":
            dropped |= differ
        reason = pc.if_else(pa.array(differ), "duplicate:two_labels", "duplicate:pair")
        mask = pa.array(dropped)
        table = pa.table(
            {
                REF: groups[REF],
                "status": pc.if_else(mask, DROPPED, _NOTHING),
                "reason": pc.if_else(mask, reason, _NOTHING),
                "pair_group": groups["row_id"].take(pa.array(best)),
                "pair_labels": pa.array(labels, pa.int64()),
            }
        )
        return table.filter(pa.array(sizes > 1))

    def count(self, rows: pa.Table, counts: Counter[str]) -> None:
        """Count the rows that repeat another one, and those of pairs with two labels."""
        repeated = pc.and_(
            pc.is_valid(rows["pair_group"]), pc.not_equal(rows["pair_group"], rows["row_id"])
        )
        counts["pairs that repeat another one"] += pc.sum(repeated).as_py() or 0
        differ = pc.greater(rows["pair_labels"], 1)
        counts["rows of pairs with two labels"] += pc.sum(differ).as_py() or 0

    def exported(self, rows: pa.Table) -> pa.Table:
        """The pairs of groups, sorted by group within the unit."""
        columns = ["pair_group", "row_id", PREMISE, HYPOTHESIS, LABEL, "pair_labels", "status"]
        found = rows.filter(pc.is_valid(rows["pair_group"])).select(columns)
        return found.sort_by([("pair_group", "ascending"), ("row_id", "ascending")])
