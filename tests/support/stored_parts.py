"""Parts of a run directory, without the run that would have made them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.parts import write_part


def put_part(path: Path, rows: pa.Table) -> None:
    """Write rows, with their status, as the part of a unit that has the file's name.

    A part in a folder ``rows``, as in a run directory, is that of the unit in its name.
    """
    root = path.parents[2] if path.parent.name == "rows" else path.parent
    name = path.relative_to(root).as_posix()
    write_part(Storage(str(root)), name, rows, fingerprint="f", input_digest="d", accounts=[])
