"""Stages of the toy job: Shout, whose rows cannot be exported."""

import pyarrow as pa
from toy import Shout

from ray_pipeline.pipeline import Pipeline


class Unexportable(Shout):
    """Raises where no row can take the blame: on the driver, while the run's files are written."""

    def exported(self, rows: pa.Table) -> pa.Table:
        raise LookupError("a defect\nand what else is to say about it")


PIPELINE = Pipeline("toy-exports", [Unexportable()])
