"""Drops the prompts that have no usable compression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.rows import drop
from ray_pipeline.stage import MapStage


class Curate(MapStage):
    """Drops rows without ``compressed_prompt``, with the reason ``compression:FAULT``.

    The faults are those of `checks.fault`: ``empty``, ``unchanged``, ``longer``, ``no_shorter``,
    ``language``, ``number``, ``negation``, ``entity``, ``literal``, ``constraint``, ``task``,
    ``answered``, ``content``, ``refused``, ``explanation``, ``cut``.
    """

    name = "curate"
    export = "prompts_without_compression.csv"

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """What was chosen, or why nothing was."""
        return {"compressed_prompt": pa.string(), "compression_fault": pa.string()}

    @property
    def removes(self) -> Collection[str]:
        """Only rows that leave here have a fault."""
        return ("compression_fault", "candidates", "candidate_log_probs")

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Drop rows."""
        found = pc.fill_null(rows["compression_fault"], "unknown")
        reasons = pc.binary_join_element_wise("compression:", found, "")
        return drop(rows, pc.is_null(rows["compressed_prompt"]), reasons)
