"""Which process left something behind, and whether it has ended."""

from __future__ import annotations

import os
from pathlib import Path


def process_identity(pid: int) -> str | None:
    """Which process an id is: of which boot of which kernel, in which container, since when.

    None where the system does not tell. A host's name and a number would be the same in two
    containers.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return f"{boot} {namespace} {pid} {ticks}"


def has_ended(identity: object) -> bool:
    """Whether a process of this kernel and container has ended; False where that is not known.

    Args:
        identity: its `process_identity`, as it was stored.
    """
    parts = str(identity).split()
    mine = (process_identity(os.getpid()) or "").split()
    if len(parts) != 4 or parts[:2] != mine[:2] or not parts[2].isdigit():
        return False
    pid = int(parts[2])
    try:
        os.kill(pid, 0)
        is_zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return is_zombie or process_identity(pid) not in (identity, None)
