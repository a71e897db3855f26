"""Which rows are trained on, and which are kept aside to validate and to test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field, model_validator

from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.text.keys import normalised


class Split(MapStage):
    """Writes ``split``: ``train``, ``validation`` or ``test``.

    A row's side depends on the seed and on the row itself, on no other row.

    Args:
        by: what it is drawn by. ``parent``: the id of the source row, so that all versions of a row
            are on one side. Names of columns: their texts, so that rows with the same texts, but
            for case, punctuation and white space, are on one side, and no duplicate of a row that
            is tested on is trained on.
        defaults: of the configuration.
    """

    name = "split"
    writes = {"split": pa.string()}
    uses_seed = True

    class Config(StageConfig):
        validation: float = Field(
            0.05, ge=0, lt=1, description="fraction of the rows that form the validation split"
        )
        test: float = Field(
            0.05, ge=0, lt=1, description="fraction of the rows that form the test split"
        )

        @model_validator(mode="after")
        def _leaves_some(self) -> Self:
            if self.validation + self.test >= 1:
                raise ValueError("validation and test take all rows: nothing is left to train on")
            return self

    config: Config

    def __init__(
        self, *, by: Literal["parent"] | tuple[str, ...] = "parent", **defaults: Any
    ) -> None:
        super().__init__(**defaults)
        self._texts = () if by == "parent" else tuple(by)

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns whose texts determine the split."""
        return dict.fromkeys(self._texts, pa.string())

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Assign every row to a split."""
        sides = [self._side(root) for root in self.roots(rows)]
        counts.update(sides)
        return set_column(rows, "split", pa.array(sides, pa.string()))

    def roots(self, rows: pa.Table) -> Iterable[str]:
        """The text that determines each row's split; rows with equal texts get the same split."""
        if self._texts:
            columns = [rows[name].to_pylist() for name in self._texts]
            return ["\x1f".join(map(normalised, texts)) for texts in zip(*columns, strict=True)]
        roots: list[str] = pc.coalesce(rows["parent_id"], rows["row_id"]).to_pylist()
        return roots

    def _side(self, root: str) -> str:
        key = f"{self.settings.seed}:{root}".encode()
        share = xxhash.xxh3_64_intdigest(key) / 2**64
        if share < self.config.test:
            return "test"
        return "validation" if share < self.config.test + self.config.validation else "train"
