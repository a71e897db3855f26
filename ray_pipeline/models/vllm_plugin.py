"""A plugin that vLLM loads in each of its processes: they end when their parent does.

vLLM's engine core and workers are children of the actor that holds the engine. If that actor is
killed with SIGKILL, they would survive and keep their memory, beside the processes of the actor
that Ray starts as its replacement. Registered under ``vllm.general_plugins`` in pyproject.toml.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

#: Seconds between checks of the parent.
_EVERY = 1.0


def die_with_parent() -> None:
    """In a process that vLLM started: kill this process when its parent has ended.

    A thread polls the parent: ``PR_SET_PDEATHSIG`` would fire when the *thread* that started the
    child ends, and an actor's threads are short-lived.
    """
    if multiprocessing.parent_process() is None:
        return
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os.kill(os.getpid(), signal.SIGKILL)
