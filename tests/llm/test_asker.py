"""Asking: what is reused, what is asked again, and what a usable answer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_pipeline.core.errors import RunError, Stopping
from ray_pipeline.core.storage import Storage
from ray_pipeline.llm.asker import RequestTemplate, UnitAsker, judge, parse
from ray_pipeline.llm.asking import Answer, AnswerError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat, EngineError, Request
from ray_pipeline.rundir.responses import Journal, Response

PROMPT = Prompt("p", None, "Say {{ what }}", {"temperature": 0.0}, AnswerFormat())
CONFIG = LlmConfig(model="m", max_tokens=9, reasks=2)


class Scripted:
    """An engine whose answers a test writes; it keeps the requests that reached it."""

    def __init__(self, answer: Callable[[Request], str]) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    async def generate(self, request: Request) -> Response:
        self.requests.append(request)
        await asyncio.sleep(0.01)
        return Response(self.answer(request), "stop", prompt_tokens=2, completion_tokens=1)

    async def close(self) -> None: ...


def asker(folder: Path, engine: Scripted, **more: object) -> UnitAsker:
    journal = Journal(Storage(str(folder)), "ask", "unit")
    template = RequestTemplate("ask", CONFIG, "r1", seed=7)
    return UnitAsker(template, engine, journal, **more)  # type: ignore[arg-type]


def test_identical_requests_of_a_unit_are_asked_once(tmp_path: Path) -> None:
    engine = Scripted(lambda _: "hello")
    unit = asker(tmp_path, engine)

    async def both() -> list[Answer]:
        return await asyncio.gather(*(unit.for_row(r)(PROMPT, what="hi") for r in ("a", "b")))

    assert [answer.text for answer in asyncio.run(both())] == ["hello", "hello"]
    assert len(engine.requests) == 1
    assert unit.usage.requests == 1


def test_samples_are_different_questions(tmp_path: Path) -> None:
    engine = Scripted(lambda request: f"answer {request.sample}")
    unit = asker(tmp_path, engine)

    async def both() -> list[Answer]:
        ask = unit.for_row("a")
        return [await ask(PROMPT, what="hi", sample=n) for n in (0, 1)]

    assert [a.text for a in asyncio.run(both())] == ["answer 0", "answer 1"]


def test_a_second_attempt_asks_nothing(tmp_path: Path) -> None:
    asyncio.run(asker(tmp_path, Scripted(lambda _: "x")).for_row("a")(PROMPT, what="hi"))
    engine = Scripted(lambda _: "y")
    again = asker(tmp_path, engine)
    assert asyncio.run(again.for_row("a")(PROMPT, what="hi")).text == "x"
    assert engine.requests == []
    assert (again.usage.requests, again.usage.reused, again.usage.prompt_tokens) == (0, 1, 2)


def test_an_unusable_answer_is_asked_again_with_the_complaint_in_view(tmp_path: Path) -> None:
    engine = Scripted(lambda request: "good" if len(request.messages) > 1 else "bad")
    unit = asker(tmp_path, engine)

    def check(text: str) -> str | None:
        return None if text == "good" else "it must be good"

    answer = asyncio.run(unit.for_row("a")(PROMPT, what="hi", check=check))
    assert answer.text == "good"
    _, second = engine.requests
    assert [m["role"] for m in second.messages] == ["user", "assistant", "user"]
    assert "it must be good" in second.messages[2]["content"]


def test_a_row_fails_with_the_raw_answer_after_the_last_reask(tmp_path: Path) -> None:
    engine = Scripted(lambda _: "  ")
    unit = asker(tmp_path, engine)
    with pytest.raises(AnswerError, match=r"^llm:empty: the answer is empty; the answer was '  '"):
        asyncio.run(unit.for_row("a")(PROMPT, what="hi"))
    assert len(engine.requests) == 1 + CONFIG.reasks


def test_retry_asks_afresh_only_what_was_unusable(tmp_path: Path) -> None:
    bad = asker(tmp_path, Scripted(lambda r: "" if "bad" in r.messages[0]["content"] else "ok"))

    async def first() -> None:
        await bad.for_row("a")(PROMPT, what="good")
        with pytest.raises(AnswerError):
            await bad.for_row("b")(PROMPT, what="bad")

    asyncio.run(first())
    engine = Scripted(lambda _: "mended")
    unit = asker(tmp_path, engine, ask_afresh=frozenset({"a", "b"}))

    async def second() -> list[str]:
        good = await unit.for_row("a")(PROMPT, what="good")
        mended = await unit.for_row("b")(PROMPT, what="bad")
        return [good.text, mended.text]

    assert asyncio.run(second()) == ["ok", "mended"]
    assert len(engine.requests) == 1


def test_an_error_of_the_engine_belongs_to_its_row(tmp_path: Path) -> None:
    class Broken(Scripted):
        async def generate(self, request: Request) -> Response:
            raise EngineError("malformed", "no choices", raw='{"choices": []}')

    unit = asker(tmp_path, Broken(lambda _: ""))
    with pytest.raises(AnswerError, match="llm:malformed: no choices"):
        asyncio.run(unit.for_row("a")(PROMPT, what="hi"))
    (path,) = Storage(str(tmp_path)).list("responses", recursive=True)
    assert "choices" in (tmp_path / path).read_text()


def test_a_key_covers_what_changes_the_answer_and_nothing_else() -> None:
    base = Request("ask", "m", "r", ({"role": "user", "content": "hi"},))
    assert base.key() == Request("ask", "m", "r", ({"content": "hi", "role": "user"},)).key()
    others = [
        Request("ask2", "m", "r", base.messages),
        Request("ask", "m2", "r", base.messages),
        Request("ask", "m", "r2", base.messages),
        Request("ask", "m", "r", ({"role": "user", "content": "ho"},)),
        Request("ask", "m", "r", base.messages, seed=1),
        Request("ask", "m", "r", base.messages, sample=1),
        Request("ask", "m", "r", base.messages, format=AnswerFormat("label", ("a", "b"))),
    ]
    assert len({base.key(), *(other.key() for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("finish", "text", "code"),
    [
        ("content_filter", "no", "content_filter"),
        ("length", "half an ans", "length"),
        ("stop", " \n", "empty"),
        ("stop", "fine", ""),
    ],
)
def test_judging(finish: str, text: str, code: str) -> None:
    assert judge(Response(text, finish, 1, 1), PROMPT, None)[0] == code


def test_labels_and_json() -> None:
    labels = AnswerFormat("label", ("entailment", "neutral"))
    assert parse(' "Entailment". ', labels) == "entailment"
    assert parse('{"label": "neutral"}', labels) == "neutral"
    with pytest.raises(ValueError, match="exactly one of: entailment, neutral"):
        parse("contradiction", labels)
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    numbers = AnswerFormat("json", schema=schema)
    assert parse('```json\n{"n": 3}\n```', numbers) == {"n": 3}
    with pytest.raises(ValueError, match="does not fit the schema"):
        parse('{"n": "three"}', numbers)
    with pytest.raises(ValueError, match="not JSON"):
        parse("three", numbers)


def test_no_request_is_sent_after_one_whose_answer_cannot_be_stored(tmp_path: Path) -> None:
    """Whoever waits for its row's task learns of the error some turns of the event loop later."""
    engine = Scripted(lambda _: "hello")
    unit = asker(tmp_path, engine)
    failed: list[str] = []
    unit.cannot_store = lambda error: failed.append(str(error))

    async def ask_two() -> list[object]:
        first = asyncio.ensure_future(unit.for_row("a")(PROMPT, what="one"))
        while not failed:
            await asyncio.sleep(0)
        # In the turn in which the write failed: the first row's task has not ended.
        assert not first.done()
        second = unit.for_row("b")(PROMPT, what="two")
        return await asyncio.gather(first, second, return_exceptions=True)

    (tmp_path / "responses").write_text("in the way")
    ends = asyncio.run(asyncio.wait_for(ask_two(), 10))
    assert [type(end) for end in ends] == [RunError, Stopping]
    assert len(engine.requests) == len(failed) == 1
