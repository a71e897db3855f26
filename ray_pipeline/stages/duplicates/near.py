"""Rows that say nearly the same: MinHash finds candidates, their texts decide.

Nothing is dropped because of a chain. A row is dropped only when its own text is similar enough to
that of the row that stays in its place: of all similar pairs, taken from the best row downwards,
the better one's survival drops the worse one. (Tools that drop all but one row of a connected
component have lost whole sources: A is like B, B like C, ..., and Z is nothing like A.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import AddedWith
from ray_pipeline.core.rows import DROPPED
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage, StageConfig
from ray_pipeline.stages.components import components
from ray_pipeline.stages.duplicates.minhash import shingles
from ray_pipeline.stages.duplicates.pairs import SimilarPairs
from ray_pipeline.stages.text.keys import normalised, ranks, text_hash


class NearDuplicates(DecideStage):
    """Keeps one of the rows with nearly the same text: the one with the longest text.

    With 20 bands of 6 hashes, a pair with similarity 0.8 becomes a candidate with probability
    99.8%.

    Args:
        columns: columns whose texts are compared.
        export: name of the exported file, for a second stage of this kind.
        defaults: of the configuration.
    """

    name = "near-duplicates"
    writes = {
        "duplicate_of": pa.string(),
        "duplicate_similarity": pa.float32(),
    }
    export = "near_duplicates.csv"
    uses_seed = True

    class Config(StageConfig):
        enabled: Annotated[bool, AddedWith(True)] = Field(
            True, description="turn the stage on; false: no rows are compared or dropped"
        )
        threshold: float = Field(
            0.8,
            gt=0,
            le=1,
            description="minimum Jaccard similarity of the word n-grams of two near duplicates",
        )
        ngram: int = Field(
            2,
            ge=1,
            le=50,
            description="words per n-gram: 2 suits questions, 5 suits long documents",
        )
        bands: int = Field(
            20,
            ge=1,
            le=512,
            description="number of MinHash bands; more bands find more candidate pairs",
        )
        band_rows: int = Field(
            6,
            ge=1,
            le=64,
            description="hashes per MinHash band; more hashes find fewer candidate pairs",
        )
        must_equal: tuple[str, ...] = Field(
            ("answer",),
            description="columns that must also be equal in near duplicates: the same question "
            "about another year has another answer. Leave it empty if answers are long",
        )

    config: Config
    #: Maximum number of similar pairs that one process decides on (about 60 bytes each); if
    #: there are more, each connected component is decided separately.
    pairs_in_memory = 5_000_000

    def __init__(self, *columns: str, export: str | None = None, **defaults: Any) -> None:
        super().__init__(**defaults)
        self.columns = columns
        self.export = export or self.export

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns that are compared, and those that must be equal."""
        return dict.fromkeys((*self.config.must_equal, *self.columns), pa.string())

    @property
    def is_off(self) -> bool:
        """Whether the configuration does not enable it."""
        return not self.config.enabled

    def keys(self, rows: pa.Table) -> pa.Table:
        """The shingles of the text, the rank among similar rows, a hash of what must be equal."""
        columns = [pc.fill_null(rows[column], "") for column in self.columns]
        text = pc.binary_join_element_wise(*columns, "\n").combine_chunks()
        must = [rows[column].to_pylist() for column in self.config.must_equal]
        hashes = [text_hash(map(normalised, row)) for row in zip(*must, strict=True)]
        texts = [column.to_pylist() for column in columns]
        table = pa.table(
            {
                REF: rows[REF],
                "row_id": rows["row_id"],
                "rank": ranks(texts, rows["row_id"].to_pylist()),
                "must": pa.array(hashes or [0] * rows.num_rows, pa.uint64()),
                "shingles": shingles(text, self.config.ngram),
            }
        )
        return table.filter(pc.greater(pc.list_value_length(table["shingles"]), 0))

    def decide(self, keys: Tables) -> Tables:
        """Drop each row that is similar to a better row that is kept."""
        config = self.config
        pairs = SimilarPairs(config.threshold, config.bands, config.band_rows, self.settings.seed)
        similar = pairs.of(keys.saved()).saved()
        if similar.num_rows <= self.pairs_in_memory:
            similar = similar.map(_in_one_group)
        else:
            similar = components(similar, "better", "worse")
        return similar.group(["component"], _drop_worse, order=["better_rank", "better", "worse"])


def _in_one_group(pairs: pa.Table) -> pa.Table:
    return pairs.append_column("component", pa.array(np.zeros(pairs.num_rows, np.int64)))


def _drop_worse(groups: pa.Table) -> pa.Table:
    """From the best row downwards: a row that stays drops the worse ones that are similar to it.

    A row of some component meets the pairs that could drop it before those in which it is the
    better one, because a better row has a smaller rank.
    """
    dropped: dict[int, int] = {}
    pairs = zip(groups["better"].to_pylist(), groups["worse"].to_pylist(), strict=True)
    for number, (better, worse) in enumerate(pairs):
        if better not in dropped and worse not in dropped:
            dropped[worse] = number
    by = groups.take(pa.array(list(dropped.values()), pa.int64()))
    return pa.table(
        {
            REF: pa.array(list(dropped), pa.int64()),
            "status": pa.array([DROPPED] * len(dropped), pa.string()),
            "reason": pa.array(["duplicate:near"] * len(dropped), pa.string()),
            "duplicate_of": by["better_id"],
            "duplicate_similarity": by["similarity"],
        }
    )
