from __future__ import annotations

import pytest

from ray_pipeline.core.errors import (
    RunError,
    UserError,
    cause_in_words,
    first_line,
    in_one_line,
    last_line,
)


def test_lines_of_a_message() -> None:
    error = ValueError("  what failed\nwhere\n  why  \n")
    assert first_line(error) == "what failed"
    assert last_line(error) == "  why"
    assert in_one_line(error) == "what failed where why"
    assert in_one_line(error, 9) == "what fail"


def test_an_empty_message_is_the_type() -> None:
    assert first_line(KeyError()) == last_line(KeyError()) == "KeyError"


# --------------------------------------------------------------------------- errors of Ray
# The texts are those of Ray 2.60.


class ActorDiedError(Exception):
    """As Ray's."""


class RayTaskError(Exception):
    """As Ray's: holds what the task raised."""

    def __init__(self, text: str, cause: BaseException) -> None:
        super().__init__(text)
        self.cause = cause


IN_CREATION = (
    "The actor died because of an error raised in its creation task, "
    "\x1b[36mray::{name}.__init__()\x1b[39m (pid=16367, ip=192.0.2.2, actor_id=b4f1556c, "
    "repr=<ray_pipeline.engine.{name} object at 0x7f7b0c583050>)\n"
    "           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
    '  File "/x/site-packages/ray/data/actor_pool_map_operator.py", line 738, in __init__\n'
    "    self._init_udf_with_retries(ctx)\n"
    '  File "/tmp/errs.py", line 6, in __init__\n'
    '    if fail: raise ValueError("no room\\nsecond line")\n'
    "             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
    "{last}"
)
DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: A\n"
    "\tactor_id: 0914effa23d8bbf8f9b7288601000000\n\tpid: 16048\n\tip: 192.0.2.2\n"
    "The actor is dead because {why}"
)
PROCESS = (
    "its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include…"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ActorDiedError(IN_CREATION.format(name="A", last="ValueError: no room\nsecond line")),
            "ValueError: no room second line",
        ),
        (
            ActorDiedError(
                IN_CREATION.format(
                    name="MapWorker(MapBatches(ModelWorker))",
                    last="ray_pipeline.core.errors.RunError: the model cannot be read",
                )
            ),
            "the model cannot be read",
        ),
        (
            ActorDiedError(
                IN_CREATION.format(
                    name="_TemporaryActor",
                    last="RuntimeError: The actor with name Coordinator failed to import on the "
                    "worker:\n\n\x1b[36mray::Coordinator()\x1b[39m (pid=1)\n"
                    '  File "/x/function_manager.py", line 2, in load\n    x()\n'
                    "ImportError: cannot import name 'Random' from 'random' (/home/me/random.py)",
                )
            ),
            "ImportError: cannot import name 'Random' from 'random' (/home/me/random.py)",
        ),
        (
            ActorDiedError(DIED.format(why=PROCESS)),
            "its process died: it was killed, ran out of memory, or crashed in native code",
        ),
        (
            ActorDiedError(DIED.format(why="it was killed by `ray.kill`.")),
            "it was killed by `ray.kill`.",
        ),
        (
            ActorDiedError("lost (pid=3, ip=192.0.2.2, repr=<x.Y object at 0x7f>)"),
            "ActorDiedError: lost",
        ),
        (RayTaskError("\x1b[36mray::f()", RunError("cannot write x")), "cannot write x"),
        (
            RayTaskError("outer", RayTaskError("inner", UserError("no such model"))),
            "no such model",
        ),
        (RayTaskError("\x1b[36mray::f()", KeyError("x")), "KeyError: 'x'"),
        (ValueError("\x1b[31mred\x1b[0m"), "ValueError: red"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_cause_of_an_error_of_ray(error: Exception, words: str) -> None:
    assert cause_in_words(error) == words
