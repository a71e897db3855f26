"""The blocks of docs/python.md are run in order, and print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from support.command import REPOSITORY

PAGE = REPOSITORY / "docs" / "python.md"


def blocks() -> list[tuple[int, str, str]]:
    """The line, code and expected output of each block of Python."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?"
    found = re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start()) + 2, m[1], m[2] or "") for m in found]


def test_every_block_of_the_page_prints_what_it_says(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    names: dict[str, Any] = {}
    assert len(blocks()) >= 6
    for line, code, expected in blocks():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (line - 1) + code, str(PAGE), "exec"), names)
        assert printed.getvalue() == expected, f"{PAGE.name}:{line}"
