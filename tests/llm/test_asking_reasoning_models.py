"""Reasoning models: what is an answer, what is not, and what is counted."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline.core.storage import Storage
from ray_pipeline.llm.asker import RequestTemplate, UnitAsker
from ray_pipeline.llm.asking import Answer, AnswerError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat, Request
from ray_pipeline.rundir.responses import Journal, Response

PROMPT = Prompt("p", None, "Say {{ what }}", {}, AnswerFormat())
CUT_ALLOWED = replace(PROMPT, allow_truncated=True)
CONFIG = LlmConfig(model="m", max_tokens=9, reasks=2)
THOUGHT = "<think>\nThe capital... yes.\n</think>\n\nParis."


class Scripted:
    """An engine that gives one response to every request; it keeps the requests."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> Response:
        self.requests.append(request)
        return replace(self.response)

    async def close(self) -> None: ...


def unit(folder: Path, engine: Scripted, config: LlmConfig = CONFIG, **more: Any) -> UnitAsker:
    journal = Journal(Storage(str(folder)), "ask", "unit")
    template = RequestTemplate("ask", config, "r1", seed=7, name="student")
    return UnitAsker(template, engine, journal, **more)


def ask(asker: UnitAsker, prompt: Prompt = PROMPT, **more: Any) -> Answer:
    return asyncio.run(asker.for_row("a")(prompt, what="hi", **more))


def records(folder: Path) -> list[dict[str, Any]]:
    files = sorted(Storage(str(folder)).list("responses", recursive=True))
    return [json.loads(line) for path in files for line in (folder / path).read_text().splitlines()]


def test_the_answer_comes_without_its_thinking(tmp_path: Path) -> None:
    asker = unit(tmp_path, Scripted(Response(THOUGHT, "stop", 10, 20)))
    answer = ask(asker, check=lambda text: None if text == "Paris." else "only Paris")
    assert (answer.text, answer.value, answer.thinking) == (
        "Paris.",
        "Paris.",
        "The capital... yes.",
    )
    # 19 of the 25 characters: the rest of the tokens is the answer.
    assert (asker.usage.completion_tokens, asker.usage.reasoning_tokens) == (20, 15)


def test_what_arrived_is_stored_and_split_when_it_is_used_again(tmp_path: Path) -> None:
    ask(unit(tmp_path, Scripted(Response(THOUGHT, "stop", 10, 20))))
    assert [record["text"] for record in records(tmp_path)] == [THOUGHT]
    again = Scripted(Response("never asked", "stop", 1, 1))
    assert ask(unit(tmp_path, again)).text == "Paris."
    assert again.requests == []


def test_a_label_after_thinking_is_a_label(tmp_path: Path) -> None:
    prompt = replace(PROMPT, format=AnswerFormat("label", ("yes", "no")))
    engine = Scripted(Response("<think>It is.</think>\nYes", "stop", 1, 9))
    assert ask(unit(tmp_path, engine), prompt).value == "yes"


def test_thinking_in_a_field_of_its_own_is_counted_and_kept(tmp_path: Path) -> None:
    response = Response("Paris.", "stop", 10, 20, thinking="The capital.", reasoning_tokens=14)
    asker = unit(tmp_path, Scripted(response))
    assert ask(asker).thinking == "The capital."
    assert asker.usage.reasoning_tokens == 14
    stored = ask(unit(tmp_path, Scripted(response)))
    assert (stored.text, stored.thinking) == ("Paris.", "The capital.")


@pytest.mark.parametrize(
    ("response", "reasoning"),
    [
        (Response("<think>\nThe capital of France, let me think about", "length", 10, 9), 9),
        (Response("", "length", 10, 9, thinking="The capital of France, let me"), 9),
        (Response("", "length", 10, 9), 0),
    ],
    ids=["in the text", "in a field", "hidden by the server"],
)
@pytest.mark.parametrize("prompt", [PROMPT, CUT_ALLOWED], ids=["usual", "cut answers allowed"])
def test_an_answer_cut_in_its_thinking_is_no_answer(
    response: Response, reasoning: int, prompt: Prompt, tmp_path: Path
) -> None:
    engine = Scripted(response)
    asker = unit(tmp_path, engine)
    with pytest.raises(AnswerError) as caught:
        ask(asker, prompt)
    assert caught.value.code == "length"
    assert caught.value.answer == ""
    for words in ("llms.student.max_tokens (now 9)", "reasoning_effort: low"):
        assert words in caught.value.detail
    # The same limit would cut it again, and be paid again.
    assert len(engine.requests) == 1
    assert (asker.usage.completion_tokens, asker.usage.cut) == (9, 1)
    assert asker.usage.reasoning_tokens == reasoning


def test_thinking_without_an_answer_says_so(tmp_path: Path) -> None:
    response = Response("", "stop", 10, 9, thinking="The capital of France, let me")
    with pytest.raises(
        AnswerError, match="llm:empty: the model thought and gave no answer; it thought 'The cap"
    ):
        ask(unit(tmp_path, Scripted(response)))


def test_a_cut_answer_fails_or_is_used_and_counted(tmp_path: Path) -> None:
    engine = Scripted(Response("Paris is the capital of", "length", 10, 9))
    asker = unit(tmp_path / "fails", engine)
    with pytest.raises(AnswerError, match="llm:length: the answer was cut off") as caught:
        ask(asker)
    assert "allow_truncated: true" in caught.value.detail
    assert len(engine.requests) == 1 + CONFIG.reasks  # a shorter answer may come
    assert (asker.usage.cut, asker.cut_rows) == (3, set())

    asker = unit(tmp_path / "used", engine)
    answer = ask(asker, CUT_ALLOWED)
    assert (answer.text, answer.is_cut) == ("Paris is the capital of", True)
    assert (asker.usage.cut, asker.cut_rows) == (1, {"a"})


def test_the_limit_to_raise_is_the_one_that_holds(tmp_path: Path) -> None:
    engine = Scripted(Response("", "length", 10, 9))
    prompt = replace(PROMPT, sampling={"max_tokens": 5})
    with pytest.raises(AnswerError, match=r"sampling.max_tokens of the prompt 'p' \(now 5\)"):
        ask(unit(tmp_path / "prompt", engine), prompt)
    config = CONFIG.model_copy(update={"extra_body": {"max_completion_tokens": 7}})
    limit = r"llms.student.extra_body.max_completion_tokens \(now 7\)"
    with pytest.raises(AnswerError, match=limit):
        ask(unit(tmp_path / "extra", engine, config), prompt)


def test_thinking_stays_where_the_configuration_says_so(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"split_thinking": False})
    engine = Scripted(Response(THOUGHT, "stop", 10, 20))
    assert ask(unit(tmp_path, engine, config)).text == THOUGHT


def test_another_reasoning_effort_is_another_request(tmp_path: Path) -> None:
    """So the fix that `llm:length` prints works: the cut answer is not taken from storage."""
    cut = Scripted(Response("", "length", 10, 9))
    with pytest.raises(AnswerError):
        ask(unit(tmp_path, cut))
    high = CONFIG.model_copy(update={"extra_body": {"reasoning_effort": "high"}})
    with pytest.raises(AnswerError):
        ask(unit(tmp_path, cut, high))
    assert len(cut.requests) == 2
    low = CONFIG.model_copy(update={"extra_body": {"reasoning_effort": "low"}})
    engine = Scripted(Response("Paris.", "stop", 10, 3))
    assert ask(unit(tmp_path, engine, low)).text == "Paris."
    again = Scripted(Response("never asked", "stop", 10, 3))
    assert ask(unit(tmp_path, again, low)).text == "Paris."
    assert again.requests == []


def test_answers_stored_before_options_were_in_the_key_are_reused(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"extra_body": {"reasoning_effort": "high"}})
    template = RequestTemplate("ask", config, "r1", seed=7, name="student")
    request = template.request(PROMPT, PROMPT.render(what="hi"))
    old = replace(request, options={})
    assert request.key() != old.key()
    assert request.sampling_seed() == old.sampling_seed()
    assert old.key() == "29de09761f8aed9c2c2a48bb458b4fe7e038ccbaadc52dd2831a7e8e72305a6c"
    journal = Journal(Storage(str(tmp_path)), "ask", "unit")
    journal.append(old.key(), "a", "m", Response("Paris.", "stop", 10, 3))
    journal.close()
    (path,) = Storage(str(tmp_path)).list("responses", recursive=True)
    (record,) = records(tmp_path)
    fields = {"key", "row_id", "model", "at", "text", "finish_reason", "prompt_tokens"}
    as_written = {name: record[name] for name in fields | {"completion_tokens"}}
    (tmp_path / path).unlink()
    # That version named its files after the clock, and its lines had no checksums.
    of_then = (tmp_path / path).with_name("01764500000000000000-0a1b2c3d.jsonl")
    of_then.write_text(json.dumps(as_written) + "\n")
    engine = Scripted(Response("never asked", "stop", 10, 3))
    assert ask(unit(tmp_path, engine, config)).text == "Paris."
    assert engine.requests == []
    # Rejected by this version, it is asked again by a retry.
    with pytest.raises(AnswerError):
        ask(unit(tmp_path, engine, config), check=lambda text: "never good")
    engine = Scripted(Response("Paris!", "stop", 10, 3))
    assert ask(unit(tmp_path, engine, config, ask_afresh=frozenset({"a"}))).text == "Paris!"


def test_arguments_of_the_engine_are_no_switches_of_a_template() -> None:
    with pytest.raises(ValueError, match="tokenize: set by the engine, leave it out"):
        LlmConfig(model="m", chat_template_kwargs={"tokenize": False, "enable_thinking": False})
