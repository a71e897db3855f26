"""The judge: what is asked, whom, and what its numbers become."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.command import REPOSITORY

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.asker import judge
from ray_pipeline.llm.asking import Answer, AnswerError
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.rundir.responses import Response
from ray_pipeline.stage import Row, Settings
from ray_pipeline.stages.scoring.judge import WEIGHTS, JudgeQuality, ranges

PROMPT = Prompt.load(REPOSITORY / "configs" / "prompts" / "quality_tradeoff" / "judge_quality.yaml")
GOOD = {"clarity": 10, "response_quality": 1, "diversity": 4, "complexity": 7}
ROW = {"instruction": "Why is the sky blue?", "response": "Short waves scatter most.", "note": None}
NULLS = dict.fromkeys([*(f"judge_{name}" for name in WEIGHTS), "judge_score"])


class Model:
    """Answers with one text, which is put to the prompt's format as the real one's is."""

    def __init__(self, text: str | AnswerError) -> None:
        self.text = text
        self.shown: list[str] = []

    async def __call__(self, prompt: Prompt, /, **values: Any) -> Answer:
        self.shown.append(prompt.render(**values)[-1]["content"])
        if isinstance(self.text, AnswerError):
            raise self.text
        response = Response(self.text, "stop", 1, 1)
        code, complaint, value = judge(response, prompt, None)
        if code:
            raise AnswerError(code, complaint, answer=self.text)
        return Answer(self.text, value, response)


def stage(seed: int = 7, prompt: Prompt = PROMPT, **config: Any) -> JudgeQuality:
    settings = Settings(seed=seed, prompts={"judge_quality": prompt}, llms={"judge": {}})
    return JudgeQuality().bound(JudgeQuality.Config(llm="judge", **config), settings)


def judged(model: Model, row: Row = ROW, **config: Any) -> Row:
    found = asyncio.run(stage(**config).ask(dict(row), model))  # type: ignore[arg-type]
    assert isinstance(found, dict)
    return found


def test_scores_are_mapped_to_0_to_1_and_weighted_as_the_heuristics_are() -> None:
    found = judged(Model(json.dumps(GOOD)))
    assert [found[f"judge_{name}"] for name in WEIGHTS] == pytest.approx([1, 0, 1 / 3, 2 / 3])
    assert found["judge_score"] == pytest.approx(0.25 + 0.2 / 3 + 0.2 * 2 / 3)
    assert set(found) == {*ROW, *NULLS} and set(NULLS) < set(JudgeQuality.writes)


def test_all_tens_are_1_and_all_ones_0() -> None:
    assert judged(Model(json.dumps(dict.fromkeys(GOOD, 10))))["judge_score"] == pytest.approx(1)
    assert judged(Model(json.dumps(dict.fromkeys(GOOD, 1))))["judge_score"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        "Quality: 9/10",
        json.dumps({**GOOD, "clarity": 11}),
        json.dumps({**GOOD, "clarity": 0}),
        json.dumps({**GOOD, "clarity": 7.5}),
        json.dumps({**GOOD, "clarity": "7"}),
        json.dumps({**GOOD, "clarity": None}),
        json.dumps({"clarity": 3}),
        json.dumps([GOOD]),
        '{"clarity": NaN}',
    ],
)
def test_unusable_answers(answer: str) -> None:
    found = judged(Model(answer))
    assert {name: found[name] for name in NULLS} == NULLS
    assert found["note"].startswith("judge-quality: kept without scores: llm:not_json")
    with pytest.raises(AnswerError):
        judged(Model(answer), if_unusable="fail")


def test_no_answer_at_all_fails_the_row() -> None:
    with pytest.raises(AnswerError):
        judged(Model(AnswerError("timeout")))


@pytest.mark.parametrize("text", [None, "", " \n"])
@pytest.mark.parametrize("column", ["instruction", "response"])
def test_nothing_is_asked_about_nothing(column: str, text: str | None) -> None:
    model = Model(json.dumps(GOOD))
    assert judged(model, {**ROW, column: text}) == {**ROW, column: text, **NULLS}
    assert model.shown == []


def chosen(share: float, seed: int = 7) -> set[int]:
    one = stage(seed, share=share)
    return {i for i in range(2_000) if one._is_chosen(f"instruction {i}", "response")}


def test_the_share_is_drawn_by_text_and_seed_and_shares_are_nested() -> None:
    tenth, half = chosen(0.1), chosen(0.5)
    assert 140 < len(tenth) < 260 and 900 < len(half) < 1_100
    assert tenth < half and len(chosen(1.0)) == 2_000
    assert chosen(0.1, seed=8) != tenth
    left = next(i for i in range(2_000) if i not in tenth)
    row = {**ROW, "instruction": f"instruction {left}", "response": "response"}
    model = Model(json.dumps(GOOD))
    assert judged(model, row, share=0.1) == {**row, **NULLS} and not model.shown


def test_long_texts_are_cut_and_say_so() -> None:
    model = Model(json.dumps(GOOD))
    judged(model, {**ROW, "response": "word " * 10_000}, max_chars=20)
    assert model.shown[0].endswith("word word word word  [cut]\n</response>")


def test_it_is_off_without_a_judge_or_a_share() -> None:
    assert JudgeQuality().bound().is_off
    assert JudgeQuality().bound({"llm": "judge", "share": 0}).is_off
    assert not JudgeQuality().bound({"llm": "judge"}).is_off


def custom(folder: Path, field: str) -> Prompt:
    names = [name for name in WEIGHTS if name != "clarity"]
    fields = {name: "{type: number, minimum: 0, maximum: 5}" for name in names}
    properties = ", ".join(
        f"{name}: {kind}" for name, kind in [*fields.items(), ("clarity", field)]
    )
    schema = f"{{type: object, properties: {{{properties}}}, required: [{', '.join(WEIGHTS)}]}}"
    path = folder / "mine.yaml"
    path.write_text(f"user: '{{{{ response }}}}'\nanswer: {{format: json, schema: {schema}}}\n")
    return Prompt.load(path)


def test_a_prompt_of_ones_own_has_its_own_range(tmp_path: Path) -> None:
    prompt = custom(tmp_path, "{type: integer, minimum: 1, maximum: 3}")
    assert ranges(prompt)["clarity"] == (1, 3)
    answer = {"clarity": 2, "response_quality": 2.5, "diversity": 0, "complexity": 5}
    found = judged(Model(json.dumps(answer)), prompt=prompt)
    assert [found[f"judge_{name}"] for name in WEIGHTS] == [0.5, 0.5, 0, 1]


@pytest.mark.parametrize(
    "field",
    ["{type: string}", "{type: integer}", "{type: integer, minimum: 3, maximum: 3}", "true"],
)
def test_a_prompt_that_does_not_say_what_a_score_is_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(
        UserError, match=r"prompt mine: answer: .*'clarity' as an integer or number"
    ):
        stage(prompt=custom(tmp_path, field)).check()
