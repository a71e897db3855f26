"""Names in the run directory: folders, files, and columns that several packages share."""

from __future__ import annotations

import re

#: The resolved configuration, the environment, the ledger, and the metrics of artifact stages.
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
LEDGER_FILE = "ledger.json"
#: What exported files, models and other files were when they were written: `rundir.manifest`.
FILES_FILE = "files.json"
METRICS_FILE = "metrics.json"
#: The units of the source, as Parquet.
UNITS_FILE = "units.parquet"
#: Locks: the run that holds the directory, and the workers that still write to it.
RUN_LOCK = "run.lock"
WORKERS_LOCK = "workers.lock"
#: Ray's log lines, and the traceback of an unexpected error.
LOG_FILE = "logs/ray.log"
#: Folders of the prompts, the exported files, the trained models and the responses.
PROMPTS = "prompts"
EXPORTS = "exports"
MODELS = "models"
RESPONSES = "responses"
#: The file that marks a segment as complete; it is written last.
DONE = "done.json"


def segment_folder(index: int, stage: str) -> str:
    """The folder of a segment, relative to the run directory.

    Args:
        index: position of its last stage in the job, from 1; 0 for the source alone.
        stage: name of that stage.
    """
    return f"stages/{index:02d}-{stage}"


def rows_folder(folder: str) -> str:
    """The folder of a segment's parts."""
    return f"{folder}/rows"


def part_path(folder: str, unit_id: str) -> str:
    """The path of a segment's part of a unit."""
    return f"{rows_folder(folder)}/part-{unit_id}.parquet"


def part_of(path: str) -> tuple[str, str]:
    """The segment's folder and the unit id of a part: the inverse of `part_path`."""
    folder, _, name = path.rpartition("/rows/part-")
    return folder, name.removesuffix(".parquet")


def decisions_folder(folder: str) -> str:
    """The folder of a segment's decisions."""
    return f"{folder}/decisions"


def decisions_path(folder: str, unit_id: str) -> str:
    """The file of the decisions on a unit's rows; it is not written when all rows are kept."""
    return f"{decisions_folder(folder)}/part-{unit_id}.parquet"


def work_folder(folder: str) -> str:
    """The folder where an artifact stage keeps work in progress, such as a learning curve."""
    return f"{folder}/work"


def responses_folder(stage: str, unit_id: str) -> str:
    """The folder of a language model's responses about a unit's rows."""
    return f"{RESPONSES}/{stage}/{unit_id}"


#: Folder of the records of an experiment's trainings.
CELLS = "experiment/cells"
#: The list of all cells, without curves; written when all of them are finished.
INDEX = "experiment/cells.json"
#: Suffix of the name of a subset's first random control.
CONTROL = "-random"
_CONTROL = re.compile(rf"(?P<subset>.+){CONTROL}(?:-(?P<draw>[1-9][0-9]*))?")


def control_name(subset: str, draw: int = 1) -> str:
    """The name of a subset's random control; ``draw`` counts from 1."""
    return f"{subset}{CONTROL}" if draw == 1 else f"{subset}{CONTROL}-{draw}"


#: Prefixes of the name of a subset of the first rows by another column than the score.
_HIGHEST, _LOWEST = "ordered-by-", "ordered-by-lowest-"


def ordering_name(ordering: str) -> str:
    """The name of the subset of the first rows in an ordering: a column, or ``-`` and a column."""
    return f"{_LOWEST}{ordering[1:]}" if ordering.startswith("-") else f"{_HIGHEST}{ordering}"


def is_ordering(name: str) -> bool:
    """Whether a name is that of a subset by another column than the score."""
    return name.startswith(_HIGHEST)


def subset_and_draw(name: str) -> tuple[str, int]:
    """The subset and the draw of a control; a subset's own name, and 0."""
    match = _CONTROL.fullmatch(name)
    return (name, 0) if match is None else (match["subset"], int(match["draw"] or 1))


#: Name of the ledger entry for reading the source; its index is 0, that of the first stage 1.
SOURCE = "source"
#: The column with the name of the source that a row comes from, in a run with named sources.
SOURCE_NAME = "source_name"

#: Columns of token rows, and of a teacher's cached log-probabilities for them.
TOKENS = ("row_id", "input_ids", "answer_mask")

CACHE = ("row_id", "tokens_hash", "teacher_ids", "teacher_log_probs", "teacher_tail", "teacher")

#: The column with the split of a row: train, validation or test.
SPLIT = "split"
#: The column that names the group of rows that ask nearly the same; null for a row without twins.
SPLIT_GROUP = "split_group"

#: The column with the list of subsets that a row is in.
SUBSETS = "subsets"

#: The column that says how a row was worded, and its value for rows that are no paraphrase.
VERSION, ORIGINAL = "version", "original"
