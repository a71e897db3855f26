"""The `generate` command: a run's model answers as it was trained to, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.command import Command
from support.taught_model import LESSONS, teach
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.cli.generate import answers, read_questions
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.decoding import Decoding
from ray_pipeline.models.text import TextConfig
from ray_pipeline.rundir.models import find_model
from ray_pipeline.train.store import put_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose student learnt the lessons by heart, in the chat style."""
    folder = tmp_path_factory.mktemp("trained")
    teach(folder / "run", chat=True)
    (folder / "run" / "ledger.json").write_text("{}")
    return folder


@pytest.fixture
def ask(trained: Path) -> Command:
    """The command in the folder of the trained model; it needs no cluster."""
    return Command(None, trained)


def test_a_runs_model_says_what_it_learnt_and_stops(ask: Command) -> None:
    prompts = [word for question in LESSONS for word in ("--prompt", question)]
    done = ask("generate", "run:student", *prompts)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == list(LESSONS.values())


def test_a_file_of_questions_gets_json_lines(ask: Command, tmp_path: Path) -> None:
    file = tmp_path / "questions.csv"
    file.write_text("id,question\n" + "".join(f'1,"{question}"\n' for question in LESSONS))
    done = ask("generate", "run/models/student", "--file", file, "--max-tokens", "3")
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"question": question, "answer": " ".join(answer.split()[:3])}
        for question, answer in LESSONS.items()
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run:student"], "nothing is asked: give --prompt"),
        (["run:student", "--prompt", "a", "--file", "q.txt"], "give one of them"),
        (["run:student", "--prompt", " "], "it is empty: write a question"),
        (["run:studnt", "--prompt", "a"], "run run has no model 'studnt'; did you mean 'student'"),
        (
            ["run", "--prompt", "a"],
            "'run' is a run, not a model: name one of its models, as run:",
        ),
        (["nowhere:student", "--prompt", "a"], "nowhere: not a run directory"),
        (["nowhere", "--prompt", "a"], "model 'nowhere' is not known"),
        (["run/models", "--prompt", "a"], "lacks config.json"),
        (["run:student", "--file", "none.txt"], "none.txt: cannot be read: No such file"),
    ],
)
def test_bad_input_gets_one_message(ask: Command, arguments: list[str], message: str) -> None:
    done = ask("generate", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("error: ") and "Traceback" not in done.err


def test_a_model_that_writes_no_text_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is a BertModel, which writes no text: name a causal"):
        list(answers(str(tmp_path), ["a"], Decoding(), "transformers"))


def test_a_model_with_broken_weights_is_named(trained: Path, tmp_path: Path) -> None:
    for path in (trained / "run" / "models" / "student").iterdir():
        whole = path.suffix != ".safetensors"
        (tmp_path / path.name).write_bytes(path.read_bytes()[: None if whole else 99])
    with pytest.raises(UserError, match=f"weights in {tmp_path} cannot be read"):
        list(answers(str(tmp_path), ["a"], Decoding(), "transformers"))


# Names of models


def test_models_go_by_all_their_names(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    folder = str(trained / "run" / "models" / "student")
    for name in ("run:student", "run/models/student", "run/models/student/", folder):
        assert find_model(name) == folder
    assert find_model(f"{trained}/run:student") == folder


def test_a_run_without_models_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text('{"run": "r", "status": "running", "stages": []}')
    with pytest.raises(UserError, match="has no models yet: run its job"):
        find_model(f"{tmp_path}:student")


def test_a_models_on_object_storage_is_found_by_the_same_names(s3: object, trained: Path) -> None:
    from transformers import AutoTokenizer

    storage = Storage("s3://bucket/run")
    put_model(storage, "student", tiny_model().to(torch.float32), word_tokenizer(), TextConfig())
    for name in ("s3://bucket/run:student", "s3://bucket/run/models/student"):
        assert AutoTokenizer.from_pretrained(find_model(name)).eos_token == "<eos>"
    with pytest.raises(UserError, match="has no model 'other'"):
        find_model("s3://bucket/run:other")


# Files of questions


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
