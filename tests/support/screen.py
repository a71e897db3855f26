"""What rich prints, as text."""

from __future__ import annotations

import io

from rich.console import Console


def shown(*things: object, width: int = 100) -> str:
    """What a console of this width shows of some things."""
    console = Console(file=io.StringIO(), width=width)
    for thing in things:
        console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
