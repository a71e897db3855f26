"""The `generate` command: a run's model answers as it was trained to, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import Command
from support.taught_model import LESSONS, teach

from ray_pipeline.cli.generate import _json


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


def test_thinking_has_a_field_of_its_own_in_a_json_line() -> None:
    assert json.loads(_json("Capital?", "<think>Easy.</think>\n\nParis")) == {
        "question": "Capital?",
        "answer": "Paris",
        "thinking": "Easy.",
    }
    assert json.loads(_json("Capital?", "Paris")) == {"question": "Capital?", "answer": "Paris"}
