"""Which rows are trained on, and which are kept aside to validate and to test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field, model_validator

from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.text.keys import normalised


class SplitConfig(StageConfig):
    """Configuration of `Split`."""

    validation: float = Field(0.05, ge=0, lt=1, description="share of the source rows")
    test: float = Field(0.05, ge=0, lt=1, description="likewise")

    @model_validator(mode="after")
    def _leaves_some(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test take all rows: nothing is left to train on")
        return self


class Split(MapStage):
    """Writes ``split``: ``train``, ``validation`` or ``test``.

    Drawn by a hash of the source row's id and the seed: all versions of a row are on one side, and
    a row's side depends on no other row.
    """

    name: ClassVar[str] = "split"
    writes: ClassVar[Mapping[str, pa.DataType]] = {"split": pa.string()}
    uses_seed: ClassVar[bool] = True
    Config: ClassVar[type[StageConfig]] = SplitConfig

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Choose a side for every row."""
        sides = [self._side(root) for root in self._roots(rows)]
        counts.update(sides)
        return set_column(rows, "split", pa.array(sides, pa.string()))

    def _roots(self, rows: pa.Table) -> Iterable[str]:
        """What draws each row's side: rows with one root are on one side."""
        roots: list[str] = pc.coalesce(rows["parent_id"], rows["row_id"]).to_pylist()
        return roots

    def _side(self, root: str) -> str:
        key = f"{self.settings.seed}:{root}".encode()
        share = xxhash.xxh3_64_intdigest(key) / 2**64
        if share < self.config.test:
            return "test"
        return "validation" if share < self.config.test + self.config.validation else "train"


class HoldOut(Split):
    """Writes ``split`` like `Split`, drawn by the row's text instead of its id.

    Rows with the same instruction and response, but for case, punctuation and white space, are on
    one side: a duplicate of a row that is tested on is never trained on.
    """

    reads: ClassVar[Mapping[str, pa.DataType]] = {
        "instruction": pa.string(),
        "response": pa.string(),
    }

    def _roots(self, rows: pa.Table) -> Iterable[str]:
        texts = (rows[name].to_pylist() for name in ("instruction", "response"))
        for instruction, response in zip(*texts, strict=True):
            yield f"{normalised(instruction)}\x1f{normalised(response)}"
