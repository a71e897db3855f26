"""The split of pairs by sentences, that of files which are split already, and its check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import DROPPED, set_column
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.rundir.layout import SOURCE_NAME, SPLIT
from ray_pipeline.stage import DecideStage, MapStage, StageConfig
from ray_pipeline.stages.reasoning.validate_pairs import HYPOTHESIS, PAIR, PREMISE
from ray_pipeline.stages.text.keys import normalised, pair_keys, run_starts, text_hash
from ray_pipeline.stages.training.split_groups import SplitGroups

#: The splits, those whose rows are tested on first.
_SPLITS = ("test", "validation", "train")


class SplitPairs(SplitGroups):
    """Draws a split for each connected component of sentences.

    Two pairs are connected if they share a sentence, whether it is the premise or the hypothesis
    (so a reversed pair too), or if their texts are nearly the same. In a random split of SICK 99%
    of the test pairs share a sentence with the training pairs. Otherwise as `SplitGroups`.
    """

    class Config(SplitGroups.Config):
        max_group_rows: int = Field(
            100,
            ge=1,
            description="components of more pairs are always trained on: a whole component goes to "
            "one side, and would be most of a small test split",
        )

    def __init__(self, **defaults: Any) -> None:
        super().__init__(*PAIR, by=(PREMISE, HYPOTHESIS), equal=tuple(PAIR), **defaults)

    def keys(self, rows: pa.Table) -> pa.Table:
        """As `SplitGroups.keys`; a sentence has one key, wherever it stands."""
        keys = super().keys(rows)
        hashes = [
            [text_hash(["sentence", normalised(text)]) for text in rows[name].to_pylist()]
            for name in PAIR
        ]
        for name, values in zip(PAIR, hashes, strict=True):
            at = keys.schema.get_field_index(f"same_{name}")
            keys = keys.set_column(at, f"same_{name}", pa.array(values, pa.uint64()))
        return keys


class GivenSplits(MapStage):
    """Puts the rows of named sources into the splits that the configuration names.

    For data that comes as train, dev and test files. It is off where ``by_source`` is empty.
    """

    name = "given-splits"
    writes = {SPLIT: pa.string()}

    class Config(StageConfig):
        by_source: dict[str, Literal["train", "validation", "test"]] = Field(
            {},
            description="split of the rows of each source under `sources`, such as {train: train, "
            "dev: validation, test: test}; rows of other sources keep the split that was drawn; "
            "empty: the stage is off",
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no source has a split of its own."""
        return not self.config.by_source

    @property
    def sources(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """The sources that the configuration names: a run that has no such source is refused."""
        config = getattr(self, "config", None)
        return tuple(config.by_source) or None if config is not None else None

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The split that was drawn."""
        return {SPLIT: pa.string()}

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Replace the split of rows whose source has one."""
        given = self.config.by_source
        names, drawn = rows[SOURCE_NAME].to_pylist(), rows[SPLIT].to_pylist()
        splits = [given.get(name, split) for name, split in zip(names, drawn, strict=True)]
        counts.update(splits)
        return set_column(rows, SPLIT, pa.array(splits, pa.string()))


class PairsInTwoSplits(DecideStage):
    """Finds pairs that are in two splits, reversed ones too, and drops those that are trained on.

    A pair of the test split that is also in the training or the validation split is dropped there
    (``leak:pair_in_test``), one of the validation split in the training split
    (``leak:pair_in_validation``). `SplitPairs` leaves none; files that were split by others may.
    """

    name = "pairs-in-two-splits"
    reads = {**PAIR, SPLIT: pa.string()}
    uses_seed = True

    class Config(StageConfig):
        leaked: Literal["drop", "keep"] = Field(
            "drop",
            description="drop: pairs that are in a split that is measured on are not trained on; "
            "keep: they are only counted",
        )

    writes = {"pair_also_in": pa.string()}
    config: Config

    def keys(self, rows: pa.Table) -> pa.Table:
        """A key of the two sentences in either order, and the split as a number."""
        texts = [[normalised(text) for text in rows[name].to_pylist()] for name in PAIR]
        pairs = [sorted(pair) for pair in zip(*texts, strict=True)]
        key, check = pair_keys([list(side) for side in zip(*pairs, strict=True)], 0)
        order = {split: number for number, split in enumerate(_SPLITS)}
        numbers = [order.get(split, len(_SPLITS)) for split in rows[SPLIT].to_pylist()]
        split = pa.array(numbers, pa.int64())
        return pa.table({REF: rows[REF], "key": key, "check": check, "split": split})

    def decide(self, keys: Tables) -> Tables:
        """Drop the rows of a pair that are not in the first split that has it."""
        return keys.group(["key", "check"], self._groups, order=["split", REF])

    def _groups(self, groups: pa.Table) -> pa.Table:
        first = run_starts(groups["key"], groups["check"])
        split = groups["split"].to_numpy()
        at = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
        home = split[at] if len(split) else split
        leaked = split > home
        names = pa.array([_SPLITS[number] for number in home[leaked]], pa.string())
        number = len(names)
        drops = self.config.leaked == "drop"
        nothing = pa.nulls(number, pa.string())
        return pa.table(
            {
                REF: groups[REF].filter(pa.array(leaked)),
                "status": pa.array([DROPPED] * number, pa.string()) if drops else nothing,
                "reason": pc.binary_join_element_wise("leak:pair_in_", names, "")
                if drops
                else nothing,
                "pair_also_in": names,
            }
        )

    def count(self, rows: pa.Table, counts: Counter[str]) -> None:
        """Count the rows whose pair is in another split, too."""
        for name in rows["pair_also_in"].to_pylist():
            if name is not None:
                counts[f"pairs that are also in {name}"] += 1
