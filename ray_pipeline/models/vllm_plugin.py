"""A plugin that vLLM loads in each of its own processes: they end when their owner does.

vLLM's engine core and workers are children of the actor that holds the engine. When that actor is
killed with SIGKILL, they would live on and keep their memory, next to those of the actor that Ray
starts in its place. Registered under ``vllm.general_plugins`` in pyproject.toml.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

#: Seconds between looks at the parent.
_EVERY = 1.0


def die_with_parent() -> None:
    """In a process that vLLM started: watch the parent, and end when it is gone.

    A watching thread, because ``PR_SET_PDEATHSIG`` fires when the *thread* that made the child
    ends, and an actor's threads come and go.
    """
    if multiprocessing.parent_process() is None:
        return
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os.kill(os.getpid(), signal.SIGKILL)
