"""The folder that a local Ray cluster leaves behind: logs and sockets, in the temporary folder.

The folder of a cluster that a run started is removed with it. It is kept where the run failed,
because Ray's own logs may say why, and it is left where the process was killed: the next run on
this machine removes such folders when they are a day old.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from ray_pipeline.core.processes import has_ended, process_identity
from ray_pipeline.engine.ray_environment import temporary_folder

#: The file in a session's folder that says which process of this project started it.
_MARK = "ray-pipeline"
#: Age in seconds at which a folder that was left is removed.
_KEPT_SECONDS = 86_400.0


def mark_session(folder: Path) -> None:
    """Note in a session's folder that this process started it."""
    if (identity := process_identity(os.getpid())) is not None:
        with contextlib.suppress(OSError):  # then nobody removes it
            (folder / _MARK).write_text(identity)


def remove_session(folder: Path) -> None:
    """Remove the folder of a session that has ended, and the link to it."""
    shutil.rmtree(folder, ignore_errors=True)
    latest = folder.parent / "session_latest"
    with contextlib.suppress(OSError):
        if latest.is_symlink() and latest.resolve() == folder.resolve():
            latest.unlink()


def remove_left_sessions() -> None:
    """Remove the folders that killed and failed runs have left on this machine, once a day old."""
    for mark in (temporary_folder()[1] / "ray").glob(f"session_*/{_MARK}"):
        with contextlib.suppress(OSError):
            is_old = time.time() - mark.stat().st_mtime > _KEPT_SECONDS
            if is_old and not mark.parent.is_symlink() and has_ended(mark.read_text()):
                remove_session(mark.parent)
