from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console
from support.made_run import TEXTS, MadeRun, made_run
from support.made_trained_run import STAGES, made_trained_run, write_curve
from support.screen import shown

from ray_pipeline.cli.views import look as views
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.rundir.trace import trace


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return made_run(str(tmp_path / "made"))


@pytest.fixture
def reader(run: MadeRun) -> RunReader:
    return RunReader(run.storage.root)


def test_status_fits_a_narrow_screen(reader: RunReader) -> None:
    text = shown(views.status(reader), width=80)
    assert "tidy:spam" in text and "$1.50" in text
    for name in ("source", "tidy", "ask", "augment"):
        assert f"\n{name} " in text


def test_status_says_where_the_account_is_wrong(run: MadeRun) -> None:
    run.accounts["ask"].kept += 1
    run.save()
    assert "does not balance: ask" in shown(views.status(RunReader(run.storage.root)))


def test_status_tells_of_control_tokens_and_of_what_the_files_lack(run: MadeRun) -> None:
    run.accounts["ask"].counts["rows_with_control_text"] = 2
    run.ledger.export_notes = ["exports/dataset.jsonl: JSON has no NaN"]
    run.save()
    text = " ".join(shown(views.status(RunReader(run.storage.root))).split())
    assert "exports/dataset.jsonl: JSON has no NaN" in text
    assert "ask: 2 rows with the text of a control token, such as <|im_end|>; local" in text


def test_rows_are_plain_text_and_harmless(tmp_path: Path) -> None:
    made_run(str(tmp_path), ["[red]spam[/red]\x1b[31m\x9b " + "x" * 1000])
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    reader = RunReader(str(tmp_path))
    views.print_rows(console, Rows(reader, "tidy"), reader.entry("tidy").account, 20)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]spam[/red]" in text
    assert "\x1b" not in text and "\x9b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_rows_as_json_lines(reader: RunReader) -> None:
    console = Console(file=io.StringIO(), width=40)
    views.print_json_rows(console, Rows(reader, "tidy", limit=3))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [orjson.loads(line)["text"] for line in lines] == TEXTS[:3]


def test_trace_shows_before_and_after(run: MadeRun, reader: RunReader) -> None:
    text = shown(views.trace(trace(reader, run.row_id(0)), reader.ledger.status))
    assert "data/in.csv, row 1" in text
    assert "- one\n" in text and "+ one, rewritten\n" in text
    assert "came through every stage" in text


def lines(run: MadeRun, width: int = 400) -> dict[str, str]:
    """What `status` says was made, by stage."""
    text = shown(views.status(RunReader(run.storage.root)), width=width)
    _, _, made = text.partition("made by")
    found = (line.split(None, 1) for line in made.splitlines() if line.strip())
    return {line[0]: " ".join(line[1].split()) for line in found}


def test_says_what_each_stage_made(tmp_path: Path) -> None:
    found = lines(made_trained_run(str(tmp_path)))
    assert list(found) == ["search", "train-teacher", "distil", "train-alone", "evaluate"]
    assert found["distil"] == (
        "validation loss 2.250 at step 60; 60 steps, ended by epochs; 1,590 rows"
    )
    assert found["search"].startswith(
        "5 trials; lowest loss 2.300 (as configured: 2.400); alpha 0.25"
    )
    assert found["evaluate"].startswith(
        "perplexity: teacher 2.125, student-before 99,000, student 9.500, student-alone 12.20; "
    )


def test_a_search_that_is_off_says_nothing(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path), change={"search": {}})
    assert list(lines(run)) == ["train-teacher", "distil", "train-alone", "evaluate"]


def test_the_account_has_their_rows_as_well(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path))
    text = shown(views.status(RunReader(run.storage.root)))
    assert all(stage in text for stage in STAGES)
    assert "does not balance" not in text


def test_a_run_that_makes_nothing_has_no_such_lines(tmp_path: Path) -> None:
    reader = RunReader(made_run(str(tmp_path)).storage.root)
    assert "made by" not in shown(views.status(reader))


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_training_under_way_says_how_far_it_is(tmp_path: Path, status: Any) -> None:
    run = made_trained_run(str(tmp_path), until="teacher-log-probs")
    write_curve(run, "distil", 30, 10, total=90)
    line = lines(run.save(status))["distil"]
    what = "training" if status == "running" else "not finished"
    assert line.startswith(f"{what}: step 30 of 90; loss 1.2")
    assert "validation loss 2.250" in line
    # Two seconds a step; nobody waits for a run that was stopped.
    assert ("at most 2 min of steps to come" in line) is (status == "running")


def test_any_other_stages_figures_are_listed(tmp_path: Path) -> None:
    change = {"evaluate": {"accuracy": 0.5, "labels": ["a", "b"], "model": "\x1b[31mx"}}
    line = lines(made_trained_run(str(tmp_path), change=change))["evaluate"]
    assert line == 'accuracy 0.5; labels ["a","b"]; model \ufffd[31mx'


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"stopped": "not trained", "steps": 0}, "not trained"),
        ({"steps": 0}, "no steps"),
        ({"steps": "many", "validation_loss": "low"}, "trained"),
        ({"history": [], "best": None}, "0 trials"),
        ({"models": {"student": 3}}, ""),
    ],
)
def test_figures_may_be_few(tmp_path: Path, figures: dict[str, Any], text: str) -> None:
    run = made_trained_run(str(tmp_path), change={"distil": figures}, until="distil")
    found = shown(views.status(RunReader(run.storage.root)), width=200).splitlines()
    (line,) = [line for line in found[-3:] if line.startswith("distil")]
    assert line.removeprefix("distil").strip() == text


def test_what_was_made_fits_a_narrow_screen(tmp_path: Path) -> None:
    reader = RunReader(made_trained_run(str(tmp_path)).storage.root)
    text = shown(views.status(reader), width=80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "student-alone 12.20" in " ".join(text.split())


def test_rows_of_a_stage_that_makes_files_are_those_before_it(tmp_path: Path) -> None:
    reader = RunReader(made_trained_run(str(tmp_path)).storage.root)
    rows = Rows(reader, "distil")
    assert rows.note is not None and rows.note.startswith("distil makes files")
    assert list(rows) == []


def test_rows_show_the_whole_reason() -> None:
    words = "HTTP 403: " + "the words of a server say what to do; " * 8
    row = {"row_id": "r", "status": "failed", "reason": f"llm:refused: {words}end", "text": "a"}
    assert "say what to do; end" in " ".join(shown(views._row(row), width=100).split())
