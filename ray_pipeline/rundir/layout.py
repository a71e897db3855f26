"""Names in the run directory: folders, files, and columns that several packages share."""

from __future__ import annotations

#: The resolved configuration, what the run ran on, its account, figures of stages that make files.
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
LEDGER_FILE = "ledger.json"
METRICS_FILE = "metrics.json"
#: The units of the source, as Parquet.
UNITS_FILE = "units.parquet"
#: Who runs the directory, and which workers still write to it.
RUN_LOCK = "run.lock"
WORKERS_LOCK = "workers.lock"
#: Ray's log lines, and the trace of an unexpected end.
LOG_FILE = "logs/ray.log"
#: Folders of the prompts, of files that a person opens, of trained models and of responses.
PROMPTS = "prompts"
EXPORTS = "exports"
MODELS = "models"
RESPONSES = "responses"
#: Written last of a segment: it is complete.
DONE = "done.json"


def segment_folder(index: int, stage: str) -> str:
    """Where a segment lies, relative to the run directory.

    Args:
        index: position of its last stage in the job, from 1; 0 for the source alone.
        stage: name of that stage.
    """
    return f"stages/{index:02d}-{stage}"


def rows_folder(folder: str) -> str:
    """Where a segment's parts lie."""
    return f"{folder}/rows"


def part_path(folder: str, unit_id: str) -> str:
    """Where a segment's part of a unit lies."""
    return f"{rows_folder(folder)}/part-{unit_id}.parquet"


def part_of(path: str) -> tuple[str, str]:
    """The segment's folder and the unit of a part: the inverse of `part_path`."""
    folder, _, name = path.rpartition("/rows/part-")
    return folder, name.removesuffix(".parquet")


def decisions_folder(folder: str) -> str:
    """Where the decisions of a segment lie."""
    return f"{folder}/decisions"


def decisions_path(folder: str, unit_id: str) -> str:
    """Where the decisions on a unit's rows lie; there is no file when all of them are kept."""
    return f"{decisions_folder(folder)}/part-{unit_id}.parquet"


def work_folder(folder: str) -> str:
    """Where a stage that makes files keeps what it has not finished, as its learning curve."""
    return f"{folder}/work"


def responses_folder(stage: str, unit_id: str) -> str:
    """Where the responses of a language model about a unit's rows lie."""
    return f"{RESPONSES}/{stage}/{unit_id}"


#: Folder of the records that the trainings leave.
CELLS = "experiment/cells"
#: The list of all cells, without curves; there when all of them are finished.
INDEX = "experiment/cells.json"
#: Ends the name of a subset's random control.
CONTROL = "-random"

#: Name of the reading of the source in the ledger; its index is 0, the first stage's is 1.
SOURCE = "source"
#: The column with the name of the source that a row comes from, in a run with named sources.
SOURCE_NAME = "source_name"

#: Columns of token rows, and of what a cached teacher says about them.
TOKENS = ("row_id", "input_ids", "answer_mask")

CACHE = ("row_id", "tokens_hash", "teacher_ids", "teacher_log_probs", "teacher_tail", "teacher")

#: The column that says which rows are for what.
SPLIT = "split"

#: The column that says of which subsets a row is.
SUBSETS = "subsets"
