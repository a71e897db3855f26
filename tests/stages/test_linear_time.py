"""No text makes a function of a stage slow: its time grows with the text, not with the square.

A quadratic function needs minutes for a text of 100 kB, and nothing would end them. A virtual timer
ends a call here, so that a slow one fails the test instead of holding it.
"""

import importlib
import inspect
import pkgutil
import signal
import typing
from collections.abc import Callable, Sequence

import pytest

from ray_pipeline import stages
from ray_pipeline.stages.cleaning.clean_text import TextCleaner

LENGTH = 30_000
#: CPU seconds; a linear function needs some fiftieth of it.
LIMIT = 0.5
FAMILIES = ("cleaning", "compression", "questions", "text", "outliers", "duplicates")

#: What backtracking stumbles over: white space, letters, separators, entities, marks, and the words
#: that our patterns look for.
REPEATED = (
    *(
        " ",
        "\n",
        "a",
        "a ",
        "A ",
        "a. ",
        "(",
        "_",
        "__ ",
        "1",
        "1,",
        "1. ",
        ", ",
        " or ",
        "'",
        "a'",
    ),
    *(
        "a'",
        "-",
        " - ",
        "? ",
        "!?",
        '"',
        "<b",
        "@",
        "A) ",
        "(A) x ",
        "(a), ",
        "http://a.",
        "# ",
        "``",
    ),
    *("&amp;", "amp;", "#38;", "\u0301", "\u0301\u0316", "a\u0301", "\u00a0", "\u200b", "Ã©"),
    *("the ", "this ", "of ", "these ", "which of these ", "none of ", "all of the ", "answer "),
)
AROUND = (("", ""), ("", "x"), ("answer", ""), ("(A) x (B)", "!"))


def hostile() -> list[str]:
    return [
        begin + part * (LENGTH // len(part)) + end for part in REPEATED for begin, end in AROUND
    ]


def functions_of_text() -> dict[str, Callable[..., object]]:
    """The functions of the families' modules that take texts, and nothing else but flags."""
    found: dict[str, Callable[..., object]] = {}
    for family in FAMILIES:
        package = importlib.import_module(f"{stages.__name__}.{family}")
        names = [name for _, name, _ in pkgutil.iter_modules(package.__path__)]
        for module in (importlib.import_module(f"{package.__name__}.{name}") for name in names):
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__ == module.__name__ and takes_texts(function):
                    found[f"{family}.{module.__name__.rpartition('.')[2]}.{name}"] = function
    return found


ARGUMENTS = {
    str: lambda text: text,
    str | None: lambda text: text,
    bool: lambda _: True,
    float: lambda _: 0.9,
    Sequence[str]: lambda text: [text, "B"],
    tuple[str, ...]: lambda text: (text, "B"),
}


def takes_texts(function: Callable[..., object]) -> bool:
    types = [
        typing.get_type_hints(function).get(name) for name in inspect.signature(function).parameters
    ]
    return bool({str, str | None} & {*types}) and all(each in ARGUMENTS for each in types)


def ends_in_time(function: Callable[..., object], *arguments: object) -> bool:
    class TooLong(BaseException):
        pass

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    try:
        function(*arguments)
    except TooLong:
        return False
    except ValueError:
        pass  # a text that is refused is refused in time
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return True


FUNCTIONS = functions_of_text()


def test_there_are_functions_to_try():
    assert {"questions.choices.match_letter", "text.keys.normalised"} <= FUNCTIONS.keys()
    assert len(FUNCTIONS) > 30


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_hostile_text_takes_no_longer_than_another(name):
    function = FUNCTIONS[name]
    types = typing.get_type_hints(function)
    for text in hostile():
        arguments = [ARGUMENTS[types[p]](text) for p in inspect.signature(function).parameters]
        assert ends_in_time(function, *arguments), (text[:40], text[-20:])


@pytest.mark.parametrize("cleaner", [TextCleaner(), TextCleaner("NFD", keep_non_ascii=True)])
def test_a_hostile_text_is_cleaned_in_time(cleaner):
    for part in REPEATED:
        for begin in ("", "&", "A"):
            text = begin + part * (LENGTH // len(part))
            assert ends_in_time(cleaner.clean, text), (begin, part)
