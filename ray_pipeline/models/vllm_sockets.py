"""The folder for vLLM's sockets, so that they can be removed however its process ends.

vLLM leaves a socket in the temporary folder for each engine whose process is killed, and pools of
engines end by a kill. Here each process has a folder of its own; the next process that starts
vLLM, and a run at its end, remove the folders of processes that have ended.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from ray_pipeline.core.processes import has_ended, process_identity

#: The file in a process's folder that says which process it is.
_MARK = "process"


def sockets_folder() -> Path | None:
    """A folder for the sockets of this process; None where none can be made.

    It is removed when the process exits, or after it was killed, see `remove_left_sockets`.
    """
    identity = process_identity(os.getpid())
    root = _root()
    if identity is None:
        return None
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(root):
            return None
        remove_left_sockets()
        folder = root / str(os.getpid())
        folder.mkdir(exist_ok=True)
        (folder / _MARK).write_text(identity)
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def remove_left_sockets() -> None:
    """Remove the folders of processes of this machine and user that have ended."""
    with contextlib.suppress(OSError):
        for folder in _root().iterdir() if _is_ours(_root()) else ():
            with contextlib.suppress(OSError):
                if has_ended((folder / _MARK).read_text()):
                    shutil.rmtree(folder, ignore_errors=True)


def _root() -> Path:
    # Short: the path of a socket has at most 107 bytes.
    return Path(tempfile.gettempdir()) / f"ray-pipeline-vllm-{os.getuid()}"


def _is_ours(root: Path) -> bool:
    """Whether it is a folder of this user: anybody can make one of that name first."""
    found = root.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
