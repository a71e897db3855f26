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
    ],
)
def test_questions_of_each_format(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path, name, content) == ["Who?", "What, and when?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", " \n", "q.txt: there is no question in it"),
        ("q.csv", "", "q.csv: there is no question in it"),
        ("q.csv", "question\n", "q.csv: there is no question in it"),
        ("q.txt", b"Wer f\xe4hrt?", r"not UTF-8 \(byte 5\)"),
        ("q.csv", "Question,b\nx,y\n", "no column 'question'; did you mean 'Question'"),
        ("q.csv", 'question\n"Who?\n', "line 2: not CSV"),
        ("q.csv", "a,question\n1\n", "line 2: 'question' is None"),
        ("q.jsonl", '{"question": "Who?"}\n{"prompt": "x"}', "no column 'question'.*prompt"),
        ("q.jsonl", '{"question": 3}', "line 1: 'question' is 3"),
        ("q.jsonl", '["Who?"]', "line 1: list where an object"),
        ("q.jsonl", "Who?", "line 1: not JSON"),
        ("q.pdf", "Who?", r"questions come in \.txt, \.jsonl, \.csv"),
    ],
)
def test_a_file_that_is_no_list_of_questions_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, name, content)
