"""Parts of a run directory, without the run that would have made them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.parts import write_part


def put_part(path: Path, rows: pa.Table) -> None:
    """Write rows, with their status, as the part of a unit that has the file's name."""
    storage = Storage(str(path.parent))
    write_part(storage, path.name, rows, fingerprint="f", input_digest="d", accounts=[])
