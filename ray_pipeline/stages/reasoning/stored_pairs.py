"""The pairs of the source as they were after the split, whatever later stages did with them.

Models are measured on every pair of the validation and the test split: a row that failed because a
server did not answer, or because no reasoning was found for it, is still a row of the test file.
"""

from __future__ import annotations

from ray_pipeline.rundir.layout import part_of, part_path, segment_folder
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Stage
from ray_pipeline.stages.reasoning.split_pairs import PairsInTwoSplits


def all_pairs(stage: Stage, rows: StoredRows) -> StoredRows:
    """The kept rows after `PairsInTwoSplits`, which commits by itself.

    Args:
        stage: a later stage of the job.
        rows: its rows.
    """
    name = stage.stage_of(PairsInTwoSplits).name
    index = [each.name for each in stage.settings.stages].index(name) + 1
    folder = segment_folder(index, name)
    units = [part_of(path)[1] for path in rows.paths]
    return StoredRows(rows.storage, tuple(part_path(folder, unit) for unit in units), rows.digest)
