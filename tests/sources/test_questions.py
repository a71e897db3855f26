from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.questions import read_questions


def read(folder: Path, name: str, content: str | bytes) -> list[str]:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_questions(file)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.txt", "Who?\n\n  What, and when? \n"),
        ("q.jsonl", '{"question": "Who?"}\n\n{"a": 1, "question": "What, and when?"}'),
        ("q.csv", '\ufeffquestion,a\r\nWho?,1\r\n"What, and when?",2\r\n'),
        ("q.tsv", "a\tquestion\n1\tWho?\n2\tWhat, and when?\n"),
        ("q.json", '[{"question": "Who?"}, {"question": " What, and when? "}]'),
    ],
)
def test_questions_of_each_format(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path, name, content) == ["Who?", "What, and when?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", " \n", "q.txt: there is no question in it"),
        ("q.csv", "", "q.csv: expected CSV, found an empty file"),
        ("q.csv", "question\n", "q.csv: no rows in it: expected at least one"),
        ("q.txt", b"Wer f\xe4hrt?", r"not UTF-8 \(byte 5\)"),
        ("q.csv", "Question,b\nx,y\n", "no column 'question'; did you mean 'Question'"),
        ("q.csv", 'question\n"Who?\n', "row 1: cannot be read: a quote is opened and never closed"),
        ("q.csv", "a,question\n1\n", "row 1: cannot be read: expected 2 fields, found 1"),
        ("q.csv", "question\nWho?\n \nWhat?\n", "row 2: 'question' is ' '"),
        ("q.csv", b"question\nWer f\xe4hrt?\n", "row 1: cannot be read: .*0xe4 is not utf-8"),
        ("q.jsonl", '{"prompt": "x"}', "no column 'question'.*known: prompt"),
        ("q.jsonl", '{"question": "Who?"}\n{"prompt": "x"}', "row 2: 'question' is None"),
        ("q.jsonl", '{"question": "Who?"}\n{"question": 3}', "not every 'question' is text"),
        ("q.jsonl", '{"question": 3}', "row 1: 'question' is 3"),
        ("q.jsonl", '["Who?"]', "none of its 1 lines is an object.*found .*Who"),
        ("q.jsonl", "Who?", "none of its 1 lines is an object"),
        ("q.pdf", "Who?", r"questions come in \.txt, .*\.csv"),
    ],
)
def test_a_file_that_is_no_list_of_questions_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, name, content)
