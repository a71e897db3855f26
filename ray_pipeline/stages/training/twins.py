"""What two rows may have in common so that a model that learnt the one knows the other.

Twins are rows with nearly the same text, with the same instruction, or with the same long
response. Training on a row's twin and testing on the row measures memory instead of skill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import Section
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stages.duplicates.minhash import shingles
from ray_pipeline.stages.duplicates.pairs import SimilarPairs
from ray_pipeline.stages.text.keys import normalised, ranks, text_hash

#: The kind of twins that have nearly the same text. Other kinds are named after their column.
TEXT = "text"


class TwinsConfig(Section):
    """When two rows count as twins."""

    threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        description="minimum Jaccard similarity of the word n-grams of two rows whose texts count "
        "as nearly the same",
    )
    ngram: int = Field(2, ge=1, le=50, description="words per n-gram")
    bands: int = Field(
        20, ge=1, le=512, description="number of MinHash bands; more bands find more pairs"
    )
    band_rows: int = Field(6, ge=1, le=64, description="hashes per MinHash band")
    long_words: int = Field(
        8,
        ge=1,
        description="minimum number of words of an answer that two rows hardly have in common by "
        'chance; shorter answers ("yes", "1945") do not make twins',
    )


class Twins:
    """Finds twins among the rows of a decide stage.

    Args:
        texts: columns whose texts together are compared for similarity.
        equal: columns whose equal texts, of any length, make two rows twins.
        equal_if_long: columns whose equal texts do so from ``long_words`` words on.
        config: the thresholds.
    """

    def __init__(
        self,
        texts: Sequence[str],
        equal: Sequence[str],
        equal_if_long: Sequence[str],
        config: TwinsConfig,
    ) -> None:
        self.texts = tuple(texts)
        self.equal = (*equal, *equal_if_long)
        self._least_words = {
            **dict.fromkeys(equal, 1),
            **dict.fromkeys(equal_if_long, config.long_words),
        }
        self._config = config

    @property
    def kinds(self) -> tuple[str, ...]:
        """`TEXT`, and the columns that make twins by equal texts."""
        return (TEXT, *self.equal)

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns that are compared."""
        return dict.fromkeys((*self.texts, *self.equal), pa.string())

    def keys(self, rows: pa.Table) -> dict[str, Any]:
        """The columns of a key table by which `similar` and `sharing` find twins.

        Args:
            rows: with ``ref``, ``row_id`` and the columns of `reads`.
        """
        columns = [pc.fill_null(rows[column], "") for column in self.texts]
        joined = pc.binary_join_element_wise(*columns, "\n").combine_chunks()
        row_ids = rows["row_id"].to_pylist()
        return {
            REF: rows[REF],
            "row_id": rows["row_id"],
            "rank": ranks([column.to_pylist() for column in columns], row_ids),
            "must": pa.array([0] * rows.num_rows, pa.uint64()),
            "shingles": shingles(joined, self._config.ngram),
            **{f"same_{column}": self._hashes(rows, column) for column in self.equal},
        }

    def _hashes(self, rows: pa.Table, column: str) -> pa.Array:
        """Hashes of a column's texts; null where a text is too short to make twins."""
        least = self._least_words[column]
        texts = [normalised(text) for text in rows[column].to_pylist()]
        hashes = [
            text_hash([column, text]) if text and len(text.split()) >= least else None
            for text in texts
        ]
        return pa.array(hashes, pa.uint64())

    def similar(self, keys: Tables, seed: int) -> Tables:
        """Pairs of rows with nearly the same text: ``better`` and ``worse``, both refs.

        Args:
            keys: with the columns of `keys`.
            seed: of the hash functions.
        """
        config = self._config
        pairs = SimilarPairs(config.threshold, config.bands, config.band_rows, seed)
        return pairs.of(keys.map(_with_words).saved()).map(_refs)


def _with_words(keys: pa.Table) -> pa.Table:
    keys = keys.select([REF, "row_id", "rank", "must", "shingles"])
    return keys.filter(pc.greater(pc.list_value_length(keys["shingles"]), 0))


def _refs(pairs: pa.Table) -> pa.Table:
    return pairs.select(["better", "worse"])
