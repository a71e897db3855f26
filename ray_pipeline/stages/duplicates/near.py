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
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import AddedWith
from ray_pipeline.core.rows import DROPPED
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage, StageConfig
from ray_pipeline.stages.components import components
from ray_pipeline.stages.duplicates.minhash import band_keys, jaccard, shingles
from ray_pipeline.stages.text.keys import normalised, ranks, run_starts, text_hash

#: Within a band, each row is paired with the best one and with this number of following rows.
_NEIGHBOURS = 16
#: Pairs whose shingles are compared at once: bounds memory.
_PAIRS_AT_ONCE = 20_000


class NearDuplicates(DecideStage):
    """Keeps one of the rows with nearly the same text: the one with the longest text.

    With 20 bands of 6 hashes, a pair with similarity 0.8 becomes a candidate with probability
    99.8%.

    Args:
        columns: columns whose texts are compared.
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

    def __init__(self, *columns: str, **defaults: Any) -> None:
        super().__init__(**defaults)
        self.columns = columns

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
        keys = keys.saved()
        candidates = keys.map(self._bands).group(
            ["band"], _candidates, order=["rank", REF], fan_out=self.config.bands
        )
        similar = candidates.meet(keys, "better", _with_better).meet(
            keys, "worse", self._similar_enough
        )
        similar = similar.saved()
        if similar.num_rows <= self.pairs_in_memory:
            similar = similar.map(_in_one_group)
        else:
            similar = components(similar, "better", "worse")
        return similar.group(["component"], _drop_worse, order=["better_rank", "better", "worse"])

    def _bands(self, keys: pa.Table) -> pa.Table:
        """One row per band of each text."""
        bands = self.config.bands
        lists = keys["shingles"].combine_chunks()
        hashes = band_keys(lists, bands, self.config.band_rows, self.settings.seed)
        again = {name: np.repeat(keys[name].to_numpy(), bands) for name in (REF, "rank", "must")}
        # What must be equal is part of the key: rows that differ in it never become candidates.
        band = hashes.reshape(-1) ^ again.pop("must")
        return pa.table({"band": band, **again})

    def _similar_enough(self, pairs: pa.Table, worse: pa.Table) -> pa.Table:
        """The candidates whose shingles are similar enough."""
        at = pc.index_in(pairs["worse"], worse[REF].combine_chunks()).combine_chunks()
        found = [
            jaccard(
                pairs["better_shingles"].slice(start, _PAIRS_AT_ONCE).combine_chunks(),
                worse["shingles"].take(at.slice(start, _PAIRS_AT_ONCE)).combine_chunks(),
            )
            for start in range(0, pairs.num_rows, _PAIRS_AT_ONCE)
        ]
        similarity = np.concatenate([np.empty(0, np.float32), *found])
        pairs = pairs.drop_columns(["better_shingles"])
        pairs = pairs.append_column("similarity", pa.array(similarity))
        return pairs.filter(pa.array(similarity >= np.float32(self.config.threshold)))


def _candidates(groups: pa.Table) -> pa.Table:
    """Pairs of rows that share a band: each with the best of them, and with those next to it.

    All pairs, in bands of few rows. Never n² of them, where thousands of rows share a band.
    """
    refs = groups[REF].to_numpy()
    first = run_starts(groups["band"])
    run = np.cumsum(first)
    best = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    far = np.arange(len(first)) - best > _NEIGHBOURS
    better, worse = [refs[best[far]]], [refs[far]]
    for step in range(1, _NEIGHBOURS + 1):
        together = run[step:] == run[:-step]
        if not together.any():
            break
        better.append(refs[:-step][together])
        worse.append(refs[step:][together])
    return _distinct(np.concatenate(better), np.concatenate(worse))


def _distinct(better: npt.NDArray[Any], worse: npt.NDArray[Any]) -> pa.Table:
    order = np.lexsort((worse, better))
    better, worse = better[order], worse[order]
    new = run_starts(pa.array(better), pa.array(worse))
    return pa.table({"better": better[new], "worse": worse[new]})


def _with_better(pairs: pa.Table, better: pa.Table) -> pa.Table:
    """Distinct candidates, with the data of the better row."""
    pairs = _distinct(pairs["better"].to_numpy(), pairs["worse"].to_numpy())
    rows = better.take(pc.index_in(pairs["better"], better[REF].combine_chunks()))
    return pa.table(
        {
            **{name: pairs[name] for name in ("better", "worse")},
            "better_rank": rows["rank"],
            "better_id": rows["row_id"],
            "better_shingles": rows["shingles"],
        }
    )


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
