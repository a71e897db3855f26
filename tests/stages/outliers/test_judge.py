"""Which rows are suspect, which of them a model judges, and what becomes of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.command import REPOSITORY
from support.stage_tables import ScriptedLlm, ask, settings

from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.stage import Drop
from ray_pipeline.stages.outliers.judge import Outliers

ROW = {
    "question": "Who wrote Emma?",
    "answer": "Jane Austen",
    "outlier_rule": None,
    "outlier_cluster": 3,
    "outlier_score": 0.9,
    "note": None,
}
OUTSIDE = {"outlier_cluster": -1}


def judged(row: dict[str, Any], *answers: str, **config: Any) -> tuple[Any, list[dict[str, Any]]]:
    llm = ScriptedLlm(*answers)
    stage = Outliers().bound(config, settings("outlier_judge"))
    return asyncio.run(stage.ask({**ROW, **row}, llm)), llm.asked


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, None),  # in a cluster, whatever its score
        ({**OUTSIDE, "outlier_score": 0.29}, None),
        ({**OUTSIDE, "outlier_score": 0.3}, None),
        ({**OUTSIDE, "outlier_score": 0.31}, "outlier:cluster: score 0.31"),
        ({**OUTSIDE, "outlier_score": None}, None),
        ({"outlier_cluster": None, "outlier_score": None}, None),
        ({"outlier_rule": "code"}, "outlier:rule: code"),
        ({**OUTSIDE, "outlier_rule": "code"}, "outlier:rule: code"),
    ],
)
def test_suspects_are_dropped_without_a_model_where_none_judges(
    row: dict[str, Any], reason: str | None
) -> None:
    result, asked = judged(row, judge="never")
    assert asked == []
    if reason is None:
        assert result == {**ROW, **row}
    else:
        assert isinstance(result, Drop) and result.reason == reason


def test_the_threshold_is_as_configured() -> None:
    row = {**OUTSIDE, "outlier_score": 0.5}
    assert isinstance(judged(row, judge="never", max_score=0.49)[0], Drop)
    assert judged(row, judge="never", max_score=0.5)[0] == {**ROW, **row}


def test_the_model_has_the_last_word_on_suspects() -> None:
    row = {"outlier_rule": "code"}
    kept, asked = judged(row, "question")
    assert kept == {**ROW, **row, "outlier_verdict": "question"}
    assert asked == [{"question": "Who wrote Emma?", "answer": "Jane Austen"}]
    dropped, _ = judged(row, "code")
    assert isinstance(dropped, Drop) and dropped.reason == "outlier:rule: code"
    assert dropped.row is not None and dropped.row["outlier_verdict"] == "code"


def test_rows_that_nothing_suspects_are_not_judged_unless_all_are() -> None:
    assert judged({})[1] == []
    dropped, asked = judged({}, "homework", judge="all")
    assert len(asked) == 1
    assert isinstance(dropped, Drop) and dropped.reason == "outlier:judge"


def test_a_trusted_rule_needs_no_model() -> None:
    row = {"outlier_rule": "code"}
    dropped, asked = judged(row, trusted_rules=("code",))
    assert isinstance(dropped, Drop) and asked == []
    assert len(judged(row, "question", trusted_rules=("course",))[1]) == 1


def test_another_label_may_be_the_one_to_keep() -> None:
    kept, _ = judged({"outlier_rule": "code"}, "code", keep_label="code")
    assert kept["outlier_verdict"] == "code"


class Unusable:
    async def __call__(self, prompt: Any, /, **values: Any) -> Any:
        raise AnswerError("label", "no label", answer="what?")


def test_without_a_usable_verdict_the_row_fails_or_is_kept() -> None:
    row = {**ROW, "outlier_rule": "code"}
    with pytest.raises(AnswerError, match="no label"):
        ask(Outliers().bound({}, settings("outlier_judge")), row, Unusable())
    stage = Outliers().bound({"if_unusable": "keep"}, settings("outlier_judge"))
    kept = ask(stage, row, Unusable())
    assert kept["note"].startswith("outliers: kept without a verdict: ")
    assert kept.get("outlier_verdict") is None


@pytest.mark.parametrize(
    ("name", "sees_answer"), [("outlier_judge", False), ("outlier_judge_large", True)]
)
def test_only_the_prompt_for_larger_models_shows_the_answer(name: str, sees_answer: bool) -> None:
    prompt = Prompt.load(REPOSITORY / f"configs/prompts/qa_distillation/{name}.yaml")
    (*_, last) = prompt.render(question="Who wrote Emma?", answer="def main(): pass")
    assert "Who wrote Emma?" in str(last)
    assert ("def main(): pass" in str(last)) is sees_answer
