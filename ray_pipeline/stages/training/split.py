"""Which rows are trained on, and which are kept aside to validate and to test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field, model_validator

from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, Stage, StageConfig
from ray_pipeline.stages.text.keys import normalised


class SplitConfig(StageConfig):
    """Fractions of the rows that are kept aside."""

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

    def side(self, drawn: float) -> str:
        """The split of a row for which ``drawn``, from 0 up to 1, was drawn."""
        if drawn < self.test:
            return "test"
        return "validation" if drawn < self.test + self.validation else "train"


class SplitStage(Stage):
    """Base of the stages that write ``split``: ``train``, ``validation`` or ``test``.

    Args:
        by: what a row's split is drawn by. ``parent``: the id of the source row, so that all
            versions of a row are on one side. Names of columns: their texts, so that rows with the
            same texts, but for case, punctuation and white space, are on one side.
        defaults: of the configuration.
    """

    name = "split"
    uses_seed = True
    Config = SplitConfig
    config: SplitConfig

    def __init__(
        self, *, by: Literal["parent"] | tuple[str, ...] = "parent", **defaults: Any
    ) -> None:
        super().__init__(**defaults)
        self._texts = () if by == "parent" else tuple(by)

    def roots(self, rows: pa.Table) -> list[str]:
        """The text that determines each row's split; rows with equal texts get the same split."""
        if self._texts:
            columns = [rows[name].to_pylist() for name in self._texts]
            return ["\x1f".join(map(normalised, texts)) for texts in zip(*columns, strict=True)]
        roots: list[str] = pc.coalesce(rows["parent_id"], rows["row_id"]).to_pylist()
        return roots

    def drawn(self, root: str) -> float:
        """A number from 0 up to 1, drawn for a root with the run's seed."""
        return xxhash.xxh3_64_intdigest(f"{self.settings.seed}:{root}".encode()) / 2**64


class Split(SplitStage, MapStage):
    """Draws each row's split by itself: it depends on the seed and the row, on no other row.

    Rows that say nearly the same, or share a question, can come to both sides; `SplitGroups` keeps
    them together.
    """

    writes = {"split": pa.string()}

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns whose texts determine the split."""
        return dict.fromkeys(self._texts, pa.string())

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Assign every row to a split."""
        sides = [self.config.side(self.drawn(root)) for root in self.roots(rows)]
        counts.update(sides)
        return set_column(rows, "split", pa.array(sides, pa.string()))
