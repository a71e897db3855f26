"""The `compress` command: lines, files, what is marked, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import Command


@pytest.fixture
def compress(tmp_path: Path) -> Command:
    """The command; it needs no cluster."""
    return Command(None, tmp_path)


def test_lines_come_back_shorter_with_what_was_saved(compress: Command, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("What is the capital of the moon?\n\nNot 5\n")
    done = compress("compress", file)
    assert (done.code, done.out) == (0, "What is capital of moon?\nNot 5\n")
    assert "prompt 2: as it was: every word must stay" in done.err
    assert "2 prompts, 10 → 8 tokens of gpt2-tokenizer (0.800 of them); 1 as they were" in done.err


def test_json_lines_say_all_of_each_prompt(compress: Command, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Add the two"}\n')
    done = compress("compress", file, "--json", "--target-tokens", "1")
    assert json.loads(done.out) == {
        "prompt": "Add the two",
        "compressed_prompt": "Add two",
        "prompt_tokens": 3,
        "compressed_tokens": 2,
        "tokenizer": "gpt2-tokenizer",
        "note": "2 tokens, asked for 1: the other words must stay",
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "gone.txt: cannot be read: No such file"),
        ("empty.txt", b"\n \n", "there is no prompt in it"),
        ("bytes.txt", b"caf\xe9", "not UTF-8 at byte 3"),
        ("a.jsonl", b'{"text": "x"}\n', "line 1: no text under the key 'prompt', found 'text'"),
        ("b.jsonl", b"{\n", "line 1: not JSON"),
    ],
)
def test_bad_input_gets_one_message(
    compress: Command, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = compress("compress", tmp_path / name)
    assert done.code == 2
    assert message in done.err and "Traceback" not in done.text
