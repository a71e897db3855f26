"""Pairs of rows with nearly the same text: MinHash bands give candidates, the shingles decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stages.duplicates.minhash import band_keys, jaccard
from ray_pipeline.stages.text.keys import run_starts

#: Within a band, each row is paired with the best one and with this number of following rows.
_NEIGHBOURS = 16
#: Pairs whose shingles are compared at once: bounds memory.
_PAIRS_AT_ONCE = 20_000


@dataclass(frozen=True)
class SimilarPairs:
    """Finds the pairs of texts with a minimum Jaccard similarity of their shingles.

    Args:
        threshold: minimum similarity, above 0 and at most 1.
        bands: MinHash bands of a text; more of them find more pairs.
        band_rows: hashes per band; more of them make fewer candidates.
        seed: of the hash functions.
    """

    threshold: float
    bands: int
    band_rows: int
    seed: int

    def of(self, keys: Tables) -> Tables:
        """All pairs that the bands find and that are similar enough, each once.

        Args:
            keys: one row for each text, saved: ``ref``; ``row_id``; ``rank``, which orders the
                texts from the best one; ``must``, a uint64 in which two rows of a pair agree; and
                ``shingles``, as `minhash.shingles` makes them, at least one.

        Returns: ``better`` and ``worse`` (refs; the better one has the smaller rank),
            ``better_rank``, ``better_id`` and ``similarity``.
        """
        candidates = keys.map(self._bands).group(
            ["band"], _candidates, order=["rank", REF], fan_out=self.bands
        )
        return candidates.meet(keys, "better", _with_better).meet(
            keys, "worse", self._similar_enough
        )

    def _bands(self, keys: pa.Table) -> pa.Table:
        """One row per band of each text."""
        lists = keys["shingles"].combine_chunks()
        hashes = band_keys(lists, self.bands, self.band_rows, self.seed)
        again = {
            name: np.repeat(keys[name].to_numpy(), self.bands) for name in (REF, "rank", "must")
        }
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
        return pairs.filter(pa.array(similarity >= np.float32(self.threshold)))


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
