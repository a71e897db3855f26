"""Reflections: who gets one, which are refused, and what stays of their tries."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from support.command import REPOSITORY
from support.stage_tables import ScriptedLlm, ask

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.llm.asking import Answer
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.stage import Row, Settings, Stage
from ray_pipeline.stages.reasoning.blind_check import BlindCheck
from ray_pipeline.stages.reasoning.choose_reasoning import ChooseReasoning
from ray_pipeline.stages.reasoning.reflect import Reflect
from ray_pipeline.stages.reasoning.think import Think
from ray_pipeline.stages.reasoning.validate_pairs import ValidatePairs

FOLDER = REPOSITORY / "configs" / "prompts" / "nli_reasoning"
NAMES = ("think", "reflect", "blind_check")


class JsonLlm(ScriptedLlm):
    """Gives parsed values, as the real one does for JSON."""

    async def __call__(self, prompt: Prompt, /, **values: Any) -> Answer:  # type: ignore[override]
        found = await super().__call__(prompt, **values)
        is_json = prompt.format.kind == "json"
        value = json.loads(found.text) if is_json else found.text
        return Answer(found.text, value, found.response)


def bound(stage: Any, **config: Any) -> Any:
    prompts = {name: Prompt.load(FOLDER / f"{name}.yaml") for name in NAMES}
    llms = {name: {"model": f"model of {name}"} for name in ("thinker", "reflector")}
    others: list[Stage] = [ValidatePairs().bound()]
    return stage.bound(config, Settings(seed=7, prompts=prompts, llms=llms, stages=others))


PAIR = {"premise": "A man sleeps.", "hypothesis": "A man runs.", "label": "contradiction"}
FIRST = "Both sentences have a man in them and so he may well do both."
WRONG: Row = {
    **PAIR,
    "split": "train",
    "think_state": "asked",
    "thoughts": FIRST,
    "predicted_label": "neutral",
    "think_error": None,
}
GOOD = "Nobody can run while asleep, and the premise has him asleep."


def reflection(improved: str, label: str = "contradiction") -> str:
    return json.dumps(
        {"error_analysis": "It overlooked sleep.", "improved_reasoning": improved, "label": label}
    )


def reflected(*texts: str, row: Row = WRONG, number: int = 1) -> tuple[Row, JsonLlm]:
    llm = JsonLlm(*texts)
    return ask(bound(Reflect(number), llm="reflector"), row, llm), llm


def test_thoughts_are_those_of_the_first_answer_for_the_winner() -> None:
    def text(label: str, why: str) -> str:
        return json.dumps({"reasoning": why, "label": label})

    answers = [text("neutral", "a"), text("contradiction", "b"), text("contradiction", "c")]
    row = {**PAIR, "split": "train"}
    made = ask(bound(Think(), samples=3), row, JsonLlm(*answers))
    assert (made["predicted_label"], made["thoughts"]) == ("contradiction", "b")
    assert made["votes"] == ["neutral", "contradiction", "contradiction"]
    assert made["vote_share"] == pytest.approx(2 / 3)
    assert (made["think_model"], made["think_tokens"]) == ("model of thinker", 3)


def test_an_unusable_answer_counts_as_wrong_and_is_kept() -> None:
    made = ask(
        bound(Think()), {**PAIR, "split": "train"}, JsonLlm('{"reasoning": "", "label": "neutral"}')
    )
    assert made["predicted_label"] is None
    assert "the reasoning is empty" in made["think_error"]
    again, _ = reflected(reflection(GOOD), row={**WRONG, **made})
    assert again["reflection_state"] == "written"


def test_rows_outside_the_share_are_not_asked_about() -> None:
    llm = JsonLlm()
    made = ask(bound(Think(), share=0.0), {**PAIR, "split": "train"}, llm)
    assert (made["think_state"], made["predicted_label"], llm.asked) == ("not_asked", None, [])


@pytest.mark.parametrize(
    "changes",
    [
        {"predicted_label": "contradiction"},
        {"split": "test"},
        {"think_state": "not_asked", "predicted_label": None},
    ],
)
def test_only_wrong_rows_that_are_not_tested_on_are_reflected(changes: Row) -> None:
    made, llm = reflected(row={**WRONG, **changes})
    assert made["reflection_state"] is None
    assert llm.asked == []


def test_the_test_split_cannot_be_reflected() -> None:
    with pytest.raises(UserError, match="leave test out"):
        bound(Reflect(1), llm="reflector", splits=["train", "test"]).check()


@pytest.mark.parametrize(
    ("improved", "complaint"),
    [
        ("I was told that it cannot be. " + GOOD, "nobody had told you"),
        (FIRST + " But no.", "reason anew"),
        ("Therefore, it is a contradiction.", "verdict and no reasoning"),
    ],
)
def test_a_reflection_that_is_none_is_asked_for_again(improved: str, complaint: str) -> None:
    made, llm = reflected(reflection(improved), reflection(GOOD))
    assert complaint in llm.complaints[0]
    assert made["improved_reasoning"] == GOOD
    alone, _ = reflected(reflection(improved))
    assert alone["reflection_state"] == "rejected"
    assert complaint in json.loads(alone["reflection_history"])[0]["rejected"]


def test_another_label_is_an_objection() -> None:
    made, llm = reflected(reflection("He sleeps in his run.", "neutral"), reflection(GOOD))
    assert made["reflection_state"] == "rejected"
    assert len(llm.texts) == 1  # it is not pressed to agree
    (entry,) = json.loads(made["reflection_history"])
    assert (entry["label"], entry["rejected"]) == ("neutral", "it gives the label 'neutral'")


def checked(row: Row, *labels: str, number: int = 1, **config: Any) -> tuple[Row, JsonLlm]:
    llm = JsonLlm(*labels)
    return ask(bound(BlindCheck(number), llm="thinker", **config), row, llm), llm


def test_a_blind_reader_decides_and_is_not_shown_the_verdict() -> None:
    written, _ = reflected(reflection(GOOD + " So it is a contradiction."))
    made, llm = checked(written, "neutral", "contradiction")
    assert made["reflection_state"] == "accepted"
    assert [each["reasoning"] for each in llm.asked] == ["", GOOD]
    assert (made["blind_label_alone"], made["blind_label"]) == ("neutral", "contradiction")


def test_a_second_try_is_shown_why_the_first_was_rejected() -> None:
    written, _ = reflected(reflection(GOOD))
    rejected, _ = checked(written, "neutral", "neutral")
    assert rejected["reflection_state"] == "rejected"
    again, llm = reflected(reflection("Running needs waking legs."), row=rejected, number=2)
    (asked,) = llm.asked
    assert "gave the label 'neutral'" in asked["rejections"][0]
    accepted, reader = checked(again, "contradiction", number=2)
    assert accepted["reflection_state"] == "accepted"
    assert len(reader.asked) == 1  # the pair alone was asked about before
    assert [each["try"] for each in json.loads(accepted["reflection_history"])] == [1, 2]
    untouched, idle = reflected(row=accepted, number=2)
    assert (untouched, idle.asked) == (accepted, [])


def chosen(*rows: Row) -> tuple[pa.Table, ChooseReasoning]:
    stage = ChooseReasoning().bound()
    columns = {
        name: pa.array([row.get(name) for row in rows], kind) for name, kind in stage.reads.items()
    }
    table = with_envelope(pa.table(columns), [f"r{at}" for at in range(len(rows))])
    return stage.apply(table, Counter()), stage


def test_each_row_gets_its_reasoning_or_fails_with_its_history() -> None:
    accepted, _ = checked(reflected(reflection(GOOD))[0], "neutral", "contradiction")
    rejected, _ = checked(reflected(reflection(GOOD))[0], "neutral", "neutral")
    right = {**WRONG, "predicted_label": "contradiction"}
    tested = {**WRONG, "split": "test"}
    skipped = {**WRONG, "think_state": "not_asked"}
    made, stage = chosen(right, accepted, rejected, tested, skipped, WRONG)
    assert made["origin"].to_pylist() == ["thoughts", "reflection", None, None, None, None]
    assert made["reasoning"].to_pylist()[:2] == [FIRST, GOOD]
    assert made["status"].to_pylist() == ["kept", "kept", "failed", "kept", "kept", "failed"]
    found = made["reason"].to_pylist()
    assert found[2].startswith("reflection:rejected: 1 try: try 1: a reader who saw only")
    assert found[5] == "reflection:none: predicted neutral, and nothing reflected on it"
    assert made["label_is_suspected"].to_pylist() == [False, False, True, False, False, False]
    suspected = stage.exports()["suspected_labels.csv"](made)
    assert suspected["row_id"].to_pylist() == ["r2"]
    reflections = stage.exports()["train_reflections.json"](made)
    assert reflections["row_id"].to_pylist() == ["r1", "r2"]
    assert {"true_label", "error_analysis", "improved_reasoning"} <= set(reflections.column_names)


def test_a_label_is_suspected_only_if_all_three_contradict_it() -> None:
    objected, _ = reflected(reflection("He sleeps in his run.", "neutral"))
    against, _ = checked(objected, "neutral")
    agreeing, _ = checked(objected, "contradiction")
    made, _ = chosen(against, agreeing)
    assert made["label_is_suspected"].to_pylist() == [True, False]
