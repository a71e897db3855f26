"""Stages of the toy job: Shout, and one that raises on the driver, where no row is to blame."""

from typing import Any

from toy import Shout

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Workplace


class Defect(ArtifactStage):
    """Makes nothing."""

    name = "defect"

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        raise LookupError("a defect\nand what else is to say about it")


PIPELINE = Pipeline("toy-defect", [Shout(), Defect()])
