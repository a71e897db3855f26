"""Which contexts and queries are trained on, and which are held out: by what they are about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase

import pyarrow as pa
import xxhash
from pydantic import Field

from ray_pipeline.core.config import Section
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.rundir.layout import SOURCE_NAME, SPLIT
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.text.keys import normalised

#: The sides, from the one that a row is on by default to the one that counts most.
SIDES = ("train", "validation", "test")
#: Column with what of a held-out row no training row has, such as ``genre and theme``.
NEW = "new"


class HeldOut(Section):
    """Values that are held out, by column. ``*`` and ``?`` in a value match anything."""

    validation: dict[str, list[str]] = Field(
        {}, description="values of the validation side by column, such as genre: [Western]"
    )
    test: dict[str, list[str]] = Field({}, description="values of the test side by column")


class DrawnSides(Section):
    """Sides that are drawn, where nothing is known of a row but its texts."""

    by: str | None = Field(
        None,
        description="column that contexts and queries share and whose values are drawn to sides, "
        "such as a question that both have; null: nothing is drawn",
    )
    validation: float = Field(0.1, ge=0, lt=1, description="fraction drawn for validation")
    test: float = Field(0.2, ge=0, lt=1, description="fraction drawn for the test")


class SplitFamilies(MapStage):
    """Puts contexts and queries on sides by what they are about: genre, theme, and wording.

    A row is a test row if one of its values is held out for the test; else a validation row if one
    is held out for validation; else it is trained on. So a test query asks for a genre or a theme
    of which the training had no context and no query.

    A query worded as on another side is dropped (``split:mixed``): trained on, it would give its
    wording away; tested on, it would ask what was trained on.

    Writes ``split``, and ``new``: which columns hold what is held out.
    """

    name = "split-families"
    uses_seed = True
    writes = {SPLIT: pa.string(), NEW: pa.string()}
    export = "queries_of_two_sides.csv"

    class Config(StageConfig):
        held_out: HeldOut = HeldOut()
        wording: str | None = Field(
            "wording",
            description="column of queries that names their wording; null: wordings are not split",
        )
        drawn: DrawnSides = DrawnSides()

    config: Config

    @property
    def columns(self) -> list[str]:
        """The columns whose values decide on the side, other than the wording."""
        held = [*self.config.held_out.validation, *self.config.held_out.test]
        return [name for name in dict.fromkeys(held) if name != self.config.wording]

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns that decide."""
        drawn = [self.config.drawn.by] if self.config.drawn.by else []
        wording = [self.config.wording] if self.config.wording else []
        return dict.fromkeys([*self.columns, *drawn, *wording], pa.string())

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        """Contexts have no wording; other sources than the two have none of the columns."""
        if source == "corpus":
            return {n: kind for n, kind in self.reads.items() if n != self.config.wording}
        return self.reads if source == "queries" else {}

    def check(self) -> None:
        """Check that something is held out, and nothing on two sides."""
        held = self.config.held_out
        for column in held.validation.keys() & held.test.keys():
            if both := set(held.validation[column]) & set(held.test[column]):
                raise UserError(
                    f"held_out: {column} {sorted(both)[0]!r} is in validation and in test: "
                    "leave it in one"
                )
        if not self.columns and self.config.drawn.by is None:
            raise UserError(
                "nothing is held out: name values under held_out.test, or a column in drawn.by"
            )

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Assign every context and query to a side."""
        sources = rows[SOURCE_NAME].to_pylist()
        values = {name: rows[name].to_pylist() for name in self.reads}
        sides: list[str | None] = []
        new: list[str | None] = []
        mixed: list[bool] = []
        for number, source in enumerate(sources):
            row = {name: column[number] for name, column in values.items()}
            if source not in ("corpus", "queries"):
                sides.append(None)
                new.append(None)
                mixed.append(False)
                continue
            side, held = self._side(row)
            worded = self._worded(row, source)
            sides.append(side)
            new.append(" and ".join(held))
            mixed.append(worded is not None and worded != side)
            counts[f"{source}: {side}"] += not mixed[-1]
        for name, column in ((SPLIT, sides), (NEW, new)):
            rows = set_column(rows, name, pa.array(column, pa.string()))
        reason = "split:mixed: its wording is of another side than what it asks for"
        return drop(rows, pa.array(mixed, pa.bool_()), reason)

    def _side(self, row: Mapping[str, str | None]) -> tuple[str, list[str]]:
        """The side of a row, and the columns whose values are held out."""
        of = {name: self._held(name, row[name]) for name in self.columns}
        side = max(of.values(), key=SIDES.index, default="train")
        held = [name for name, found in of.items() if found != "train"]
        drawn = self.config.drawn
        if drawn.by is not None and (text := row[drawn.by]) is not None:
            key = f"{self.settings.seed}:{normalised(text)}"
            number = xxhash.xxh3_64_intdigest(key.encode()) / 2**64
            found = "test" if number < drawn.test else "train"
            if drawn.test <= number < drawn.test + drawn.validation:
                found = "validation"
            side = max(side, found, key=SIDES.index)
            held += [drawn.by] if found != "train" else []
        return side, held

    def _held(self, column: str, value: str | None) -> str:
        if value is None:
            return "train"
        for side in ("test", "validation"):
            patterns = getattr(self.config.held_out, side).get(column, ())
            if any(fnmatchcase(value, pattern) for pattern in patterns):
                return side
        return "train"

    def _worded(self, row: Mapping[str, str | None], source: str) -> str | None:
        """The side of a query's wording; None where it has none."""
        name = self.config.wording
        if source != "queries" or name is None or row[name] is None:
            return None
        return self._held(name, row[name])
