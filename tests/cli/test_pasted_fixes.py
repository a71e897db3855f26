"""Each fix that a message prints is a line of YAML: pasted into the configuration, it works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import TESTS, InProcess

from ray_pipeline.core.config import fix, read_yaml

CASES = TESTS / "cases"
FIX = re.compile(r"\b(?:Set|set|with|in) (sources?\.[\w.-]+: .+)$")
PAIR = '{"question": "q", "answer": "a"}\n'
#: Content of the source, its name, and the keys of the source's configuration.
WRONG: dict[str, tuple[str, str | bytes, dict[str, Any]]] = {
    "blanks": ("a.csv", " Question , Answer \nq,a\n", {}),
    "blanks, one of them known": ("a.csv", " Question ,answer\nq,a\n", {}),
    "blanks, both configured": (
        "a.csv",
        " Question , Answer \nq,a\n",
        {"columns": {"question": "Question", "answer": "Answer"}},
    ),
    "colon and quotes": ("a.csv", "\"question: \",'answer'\nq,a\n", {}),
    "braces": ("a.csv", "{question},[answer]\nq,a\n", {}),
    "a word of YAML": ("a.jsonl", '{"Question": "q", "NO": "a"}\n', {"columns": {"answer": "No"}}),
    "a number": ("a.jsonl", '{"question": "q", "1 ": "a"}\n', {"columns": {"answer": "1"}}),
    "a line end": ("a.jsonl", '{"question\\n": "q", "answer": "a"}\n', {}),
    "other letters": ("a.csv", "QUESTION,Answér\nq,a\n", {"columns": {"answer": "Answer"}}),
    "reserved": ("a.csv", "question,answer,status,reason\nq,a,1,2\n", {}),
    "one name twice": (
        "a.csv",
        "question,answer,Question\nq,a,x\n",
        {"columns": {"question": "Question"}},
    ),
    "raw column": ("a.jsonl", PAIR.replace("}", ', "source_raw": 5}') + "{broken\n", {}),
    "delimiter": ("a.csv", "question;answer\nq;a\n", {"delimiter": ","}),
    "tab": ("a.csv", "question\tanswer\nq\ta\n", {"delimiter": ","}),
    "cp1252": ("a.csv", "question,answer\n«q»,né – a\n".encode("cp1252"), {}),
    "latin-1 header": ("a.csv", "question,answer,né\nq,a,x\n".encode("latin-1"), {}),
    "UTF-16": ("a.csv", "question,answer\nq,a\n".encode("utf-16"), {}),
    "UTF-16 without mark": ("a.jsonl", PAIR.encode("utf-16-le"), {}),
}


def write(folder: Path, source: dict[str, Any]) -> Path:
    file = folder / "config.yaml"
    config = {
        "name": "toy",
        "job": str(TESTS / "support" / "jobs" / "toy_pairs.py"),
        "run_dir": str(folder / "run"),
        **source,
    }
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return file


def paste_fixes(command: InProcess, config: Path, most: int = 2) -> list[str]:
    """Run `plan`, and append the fix that it prints to the configuration until it passes."""
    fixes: list[str] = []
    while (done := command("plan", config)).code:
        assert done.code == 2 and "Traceback" not in done.text, done.text
        found = FIX.search(done.text.strip())
        assert found and len(fixes) < most, done.text
        fixes.append(found[1])
        with config.open("a", encoding="utf-8") as file:
            file.write(f"{found[1]}\n")
    return fixes


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("sources", [False, True])
def test_a_pasted_fix_works(tmp_path: Path, name: str, sources: bool) -> None:
    file, content, keys = WRONG[name]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / file).write_bytes(data)
    source = {"path": str(tmp_path / file), **keys}
    config = write(tmp_path, {"sources": {"mine": source}} if sources else {"source": source})
    # Two reserved names take two.
    assert paste_fixes(InProcess(tmp_path), config)


def test_the_case_of_blanks_in_the_header(tmp_path: Path) -> None:
    path = CASES / "blank_header.csv"
    columns = {"question": "Question", "answer": "Answer"}
    config = write(tmp_path, {"source": {"path": str(path), "columns": columns}})
    fixes = paste_fixes(InProcess(tmp_path), config, most=1)
    assert fixes == ["source.columns: {question: ' Question ', answer: ' Answer '}"]


def test_two_sources_that_disagree(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(PAIR.replace("}", ', "n": 1}'))
    (tmp_path / "b.jsonl").write_text(PAIR.replace("}", ', "n": "x"}'))
    sources = {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in "ab"}
    paste_fixes(InProcess(tmp_path), write(tmp_path, {"sources": sources}), most=1)


@pytest.mark.parametrize(
    "value", ["a b", "", "no", 1, None, {"a: b": "'\"{}[]#\n"}, ["x"], "é" * 99]
)
def test_any_value_is_one_line_that_sets_it(tmp_path: Path, value: Any) -> None:
    line = fix("source.columns", value)
    assert "\n" not in line
    (tmp_path / "a.yaml").write_text(f"source: {{path: x}}\n{line}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"source": {"path": "x", "columns": value}}
