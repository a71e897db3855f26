"""A training without rows says what became of them, and how to get some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.made_run import MadeRun
from support.stage_tables import table
from support.tiny_models import word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import kept
from ray_pipeline.engine.segments import run_maps
from ray_pipeline.models.text import Tokeniser
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.tokenise import Tokenise


def message(
    folder: Path,
    pairs: list[tuple[str | None, str | None]],
    text: dict[str, Any] | None = None,
    split: dict[str, float] | None = None,
    by: Any = "parent",
    before: StageAccount | None = None,
    side: str = "train",
    seed: int = 1,
) -> str:
    """What a training says that finds no rows of a side, after a real split and tokenisation.

    Args:
        folder: of the run.
        pairs: questions and answers that reach the split.
        text: configuration of the tokenisation's text.
        split: configuration of the split.
        by: what the split is drawn by.
        before: account of a stage before the split; None: there is none.
        side: of the split.
        seed: of the run.
    """
    stages = [
        Split(by=by).bound(split or {}, Settings(seed=seed)),
        Tokenise("question", "answer").bound({"text": {"style": "plain", **(text or {})}}),
    ]
    stages[1]._tokenise = Tokeniser(word_tokenizer(), stages[1].config.text)
    made = MadeRun(
        str(folder),
        "made",
        [["source", *([before.name] if before else []), "split"], ["tokenise"]],
        {},
    )
    unit = made.add_unit(len(pairs))
    read = before.rows_in if before else len(pairs)
    accounts = [StageAccount("source", rows_in=read, kept=read), *([before] if before else [])]
    rows, of_split = run_maps(stages[:1], table(pairs))
    made.commit(unit, rows, [*accounts, *of_split])
    rows, of_tokenise = run_maps(stages[1:], kept(rows))
    made.commit(unit, rows, of_tokenise)
    made.finish()
    stored = StoredRows(made.storage, (part_path(made.folder("tokenise"), unit.unit_id),), "digest")
    stage = TrainTeacher().bound({}, Settings(stages=[*stages, TrainTeacher()], seed=seed))
    with pytest.raises(UserError) as raised:
        require_rows(stage, stored, **{side: "to train on"})
    said = str(raised.value)
    assert said.startswith(f"stages.train-teacher: there are no {side} rows to train on. ")
    return said.removeprefix(f"stages.train-teacher: there are no {side} rows to train on. ")


ALL_TO_TRAIN = {"validation": 0.0, "test": 0.0}
LONG = " ".join("abcdefabcdef")


def test_rows_that_are_all_too_long(tmp_path: Path) -> None:
    said = message(
        tmp_path,
        [("a", LONG), ("b", f"{LONG} a")],
        {"prompt": "{question}", "max_tokens": 8, "overlong": "drop"},
        ALL_TO_TRAIN,
    )
    assert said == (
        "The split gave this side 2 rows, and none is left: tokenise dropped 2 (tokens:too_long "
        "2). Their text has more tokens than stages.tokenise.text.max_tokens, 8, has room for; "
        "the shortest of 2 has 14: raise it, or set stages.tokenise.text.overlong: cut_answer"
    )


def test_questions_that_leave_no_room_for_an_answer(tmp_path: Path) -> None:
    said = message(tmp_path, [(LONG, "a")], {"prompt": "{question}", "max_tokens": 8}, ALL_TO_TRAIN)
    assert "tokenise dropped 1 (tokens:prompt_too_long 1)" in said
    assert said.endswith("max_tokens, 8, has room for; the shortest of 1 has 12: raise it")


def test_answers_that_are_all_empty(tmp_path: Path) -> None:
    said = message(tmp_path, [("a", ""), ("b", None)], split=ALL_TO_TRAIN)
    assert "tokenise dropped 2 (tokens:no_answer 2). Their column 'answer' is empty" in said
    assert "ray-pipeline rows" in said and "source.columns" in said


def test_one_row_that_the_split_puts_on_another_side(tmp_path: Path) -> None:
    said = message(tmp_path, [("a", "b")], split={"validation": 0.0, "test": 0.99})
    assert said == (
        "1 row reached the split, and by chance its sides have: train 0, validation 0, test 1. "
        "Bring more rows, or lower stages.split.validation and stages.split.test"
    )
    said = message(tmp_path, [("a", "b")], split={"validation": 0.0, "test": 0.01}, side="test")
    assert said.endswith("Bring more rows, or raise stages.split.test, which is 0.01")
    said = message(tmp_path, [("a", "b")], split=ALL_TO_TRAIN, side="test")
    assert said == "stages.split.test is 0: set it, as to 0.05"


def test_rows_that_are_alike(tmp_path: Path) -> None:
    """Left alone they are on one side; deduplicated, one is left."""
    split = {"validation": 0.0, "test": 0.01}
    said = message(tmp_path, [("a", "b")] * 5, split=split, by=("question",), side="test")
    assert said == (
        "All 5 rows have the same question, and such rows are on one side of the split (train 5, "
        "validation 0, test 0): bring rows that differ"
    )
    alike = StageAccount(
        "exact-duplicates", 400, kept=1, dropped=399, reasons={"duplicate:exact": 399}
    )
    said = message(tmp_path, [("a", "b")], split={"validation": 0.0, "test": 0.99}, before=alike)
    assert said.startswith(
        "Of 400 rows read, 1 reached the split: exact-duplicates dropped 399 (duplicate:exact "
        "399). 1 row reached the split"
    )


def test_no_row_that_reaches_the_split(tmp_path: Path) -> None:
    gone = StageAccount(
        "answer", 9, failed=7, dropped=2, reasons={"llm:empty": 7, "answer:no_question": 2}
    )
    said = message(tmp_path, [], before=gone)
    assert said.startswith(
        "Of 9 rows read, none is left: answer dropped 2 and failed 7 (llm:empty 7, "
        "answer:no_question 2). `ray-pipeline rows "
    )
    assert said.endswith(" answer --status failed` shows them")


def test_a_template_that_does_not_fit(tmp_path: Path) -> None:
    account = StageAccount("tokenise", 1, dropped=1, reasons={"tokens:template": 1})
    from ray_pipeline.stages.training.missing_rows import _fix

    stage = TrainTeacher().bound(
        {}, Settings(stages=[Tokenise("q", "a").bound({}), TrainTeacher()])
    )
    said = _fix(stage, MadeRun(str(tmp_path), "made", [], {}).storage, [account])
    assert "set stages.tokenise.text.style: plain" in said
