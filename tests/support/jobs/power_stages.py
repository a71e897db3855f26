"""Stages of every kind that has files of its own; importing them records what is written.

Workers import this module by its name, because the stages are in it.
"""

from __future__ import annotations

from typing import Any

import toy
from support import recorded_writes

from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, StageConfig, Workplace

recorded_writes.install()


class Shout(toy.Shout):
    """As the toy's."""


class Ask(toy.Ask):
    """As the toy's."""


class First(toy.First):
    """As the toy's."""


class Whisper(toy.Whisper):
    """As the toy's."""


class Summarise(ArtifactStage):
    """Writes the number of rows to a file."""

    name = "summarise"
    Config = StageConfig
    makes = ("exports/summary.txt",)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        number = sum(table.num_rows for table in rows.tables(["row_id"]))
        place.storage.write_bytes(self.makes[0], f"{number} rows\n".encode())
        return {"rows": number}


class Recount(Summarise):
    """A second one, whose figures are beside those of the first."""

    name = "recount"
    makes = ("exports/recount.txt",)
