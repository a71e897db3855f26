"""What the parts of an experiment on subsets call things in the run directory."""

from __future__ import annotations

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
