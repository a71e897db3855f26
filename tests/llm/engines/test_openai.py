"""The `openai` engine against a real server that goes wrong in every way the field knows."""

from __future__ import annotations

import asyncio
import json
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.mock_openai import MockServer, key_label
from support.scripted_server import Scripted, ScriptedServer

from ray_pipeline.core.errors import BudgetExhausted, RunError, UserError
from ray_pipeline.llm.config import Budget, LlmConfig
from ray_pipeline.llm.engines import replies as retry
from ray_pipeline.llm.engines.base import key_limits
from ray_pipeline.llm.engines.openai import OpenAIEngine
from ray_pipeline.llm.engines.requests import Dialect, request_body
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.limits.protocol import PICODOLLARS, ClientReport, Grants
from ray_pipeline.llm.limits.server import LimitsServer
from ray_pipeline.llm.types import AnswerFormat, Cancelled, EngineError, Request, Sampling
from ray_pipeline.rundir.responses import Response

SECRET_A, SECRET_B = "sk-secret-aaaaaaaaaaaa", "weird_bbbbbbbbbbbbbbbb"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_A", SECRET_A)
    monkeypatch.setenv("KEY_B", SECRET_B)
    monkeypatch.setattr(retry, "FIRST_BACKOFF_SECONDS", 0.02)


def config(server: MockServer | str, **options: Any) -> LlmConfig:
    url = server if isinstance(server, str) else server.base_url
    defaults = {"api_keys_env": ["KEY_A"], "concurrency": 32, "timeout_seconds": 5.0}
    prices = {"prompt": 1.0, "completion": 2.0}
    return LlmConfig(
        model="mock",
        engine="openai",
        base_url=url,
        **{"usd_per_million": prices, **defaults, **options},
    )


def request(number: int = 0, text: str = "", **options: Any) -> Request:
    content = f"Rewrite as a question: item {number}. {text}".strip()
    messages = ({"role": "user", "content": content},)
    return Request("stage", "mock", "", messages, Sampling(max_tokens=32), **options)  # type: ignore[arg-type]


class Session:
    """An engine with limits of its own, for a test."""

    def __init__(self, llm: LlmConfig, budget: Budget | None = None) -> None:
        max_cost_usd = budget.max_cost_usd if budget else None
        self.server = LimitsServer(key_limits({"llm": llm}), max_cost_usd=max_cost_usd)

        async def call(report: ClientReport) -> Grants:
            return self.server.sync(report)

        self.limits = LimitsClient("test", call)
        self.engine = OpenAIEngine("llm", llm, self.limits)

    async def ask(self, requests: list[Request]) -> list[Any]:
        """Responses and exceptions, in order; closes everything."""
        try:
            return await asyncio.gather(
                *(self.engine.generate(one) for one in requests), return_exceptions=True
            )
        finally:
            await self.limits.close()
            await self.engine.close()


def ask(llm: LlmConfig, requests: list[Request], budget: Budget | None = None) -> list[Any]:
    async def main() -> list[Any]:
        return await Session(llm, budget).ask(requests)

    return asyncio.run(main())


def ask_one(llm: LlmConfig, one: Request) -> Response:
    (outcome,) = ask(llm, [one])
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Response)
    return outcome


@pytest.fixture(scope="module")
def plain() -> Iterator[MockServer]:
    """A server without faults."""
    with MockServer(latency=0.01) as server:
        yield server


# --------------------------------------------------------------------------- answers


def test_an_answer_with_its_tokens_and_its_cost(plain: MockServer) -> None:
    response = ask_one(config(plain), request())
    assert response.text.startswith("Which ")
    assert response.finish_reason == "stop"
    assert response.prompt_tokens == 6
    assert response.completion_tokens == len(response.text.split())
    assert response.cost_usd == pytest.approx((6 + 2 * response.completion_tokens) / 1e6)
    assert response.attempts == 1
    assert 0.01 <= response.seconds < 5


def test_the_same_requests_get_the_same_answers(plain: MockServer) -> None:
    requests = [request(number) for number in range(20)]
    first, second = (ask(config(plain), requests) for _ in range(2))
    assert [r.text for r in first] == [r.text for r in second]
    assert len({r.text for r in first}) == 20


def test_a_short_limit_is_told_as_length(plain: MockServer) -> None:
    one = Request("s", "mock", "", ({"role": "user", "content": "hi"},), Sampling(max_tokens=3))
    response = ask_one(config(plain), one)
    assert response.finish_reason == "length"
    assert response.completion_tokens == 3


def test_json_is_asked_for_with_its_schema(plain: MockServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    one = request(format=AnswerFormat("json", schema=schema))
    assert isinstance(json.loads(ask_one(config(plain), one).text)["n"], int)


def test_missing_usage_is_estimated(plain: MockServer) -> None:
    response = ask_one(config(plain), request(text="[[mock:nousage]]"))
    assert response.prompt_tokens > 5
    assert response.completion_tokens > 5
    assert response.cost_usd > 0


def test_a_content_filter_is_the_answers_finish_reason(plain: MockServer) -> None:
    assert ask_one(config(plain), request(text="[[mock:filter]]")).finish_reason == "content_filter"


def test_estimated_tokens_cover_the_thinking() -> None:
    message = {"content": "Paris", "reasoning": "x" * 395}
    reply = {"choices": [{"message": message, "finish_reason": "stop"}]}
    with ScriptedServer(lambda _: Scripted.of(200, reply)) as server:
        response = ask_one(config(server.base_url), request())
    assert response.completion_tokens == 100
    assert response.cost_usd > 200 / 1e6


def test_the_body() -> None:
    switches = {"enable_thinking": False}
    extra = {"top_k": 5, "temperature": 0.1}
    llm = config("http://x/v1", extra_body=extra, chat_template_kwargs=switches)
    sampling = Sampling(7, 0.5, 0.9, ("\n",))
    one = Request("s", "mock", "", ({"role": "user", "content": "hé"},), sampling, seed=3)
    body = json.loads(request_body(llm, one, Dialect()))
    assert body == {
        "model": "mock",
        "messages": [{"role": "user", "content": "hé"}],
        "max_tokens": 7,
        "temperature": 0.1,
        "top_p": 0.9,
        "stop": ["\n"],
        "seed": one.sampling_seed(),
        "top_k": 5,
        "chat_template_kwargs": switches,
    }


# --------------------------------------------------------------------------- faults


FAULTS = {"p429": 0.1, "p500": 0.1, "p503": 0.05, "pcut": 0.1, "pmalformed": 0.1}


@pytest.mark.parametrize("fault", [*FAULTS, "all"])
def test_transient_faults_are_tried_again(fault: str) -> None:
    faults = FAULTS if fault == "all" else {fault: 0.3}
    with MockServer(latency=0.005, seed=3, **faults) as server:
        requests = [request(number) for number in range(120)]
        outcomes = ask(config(server, max_tries=30), requests)
        stats = server.stats()
    assert all(isinstance(outcome, Response) for outcome in outcomes)
    assert stats["completed"] == 120
    assert stats["repeated_completed"] == 0
    assert sum(outcome.attempts for outcome in outcomes) == stats["arrivals"]
    assert stats["arrivals"] > 130
    assert stats["max_in_flight"] <= 32


def test_tries_are_bounded_and_the_last_broken_reply_is_kept(plain: MockServer) -> None:
    before = plain.stats()["arrivals"]
    texts = ["[[mock:malformed]]", "[[mock:empty]]", "[[mock:500]]", ""]
    requests = [request(number, text) for number, text in enumerate(texts)]
    html, empty, server_error, fine = ask(config(plain, max_tries=3), requests)
    assert (html.code, html.attempts) == ("malformed", 3)
    assert "not JSON" in html.raw
    assert (empty.code, '"choices":[]' in empty.raw) == ("malformed", True)
    assert server_error.code == "server_error"
    assert isinstance(fine, Response)  # one bad request does not touch its neighbours
    assert plain.stats()["arrivals"] - before == 10


@pytest.mark.parametrize(
    ("marker", "code"), [("context", "context_length"), ("400", "bad_request")]
)
def test_errors_of_the_request_are_not_tried_again(
    plain: MockServer, marker: str, code: str
) -> None:
    before = plain.stats()["arrivals"]
    with pytest.raises(EngineError) as caught:
        ask_one(config(plain), request(text=f"[[mock:{marker}]]"))
    assert caught.value.code == code
    assert "HTTP 400" in caught.value.detail
    assert plain.stats()["arrivals"] - before == 1


def test_a_timeout_is_tried_again_and_named() -> None:
    with MockServer(latency=3.0) as server:
        with pytest.raises(EngineError) as caught:
            ask_one(config(server, timeout_seconds=0.1, max_tries=2), request())
        assert caught.value.code == "timeout"
        assert server.stats()["arrivals"] == 2


def test_giving_up_after_a_time() -> None:
    with MockServer(p500=1.0) as server, pytest.raises(EngineError) as caught:
        ask_one(config(server, max_tries=10**6, give_up_after_seconds=0.5), request())
    assert caught.value.code == "server_error"
    assert caught.value.attempts < 1000


def test_fields_that_a_server_refuses_are_learnt_once() -> None:
    with MockServer(reject_max_tokens=True, reject_temperature=True) as server:
        outcomes = ask(config(server, concurrency=1), [request(number) for number in range(5)])
        assert all(isinstance(outcome, Response) for outcome in outcomes)
        assert [outcome.attempts for outcome in outcomes] == [1] * 5
        assert server.stats()["arrivals"] == 7


def test_json_formats_get_softer_until_the_server_takes_one() -> None:
    refusal = json.dumps({"error": {"message": "response_format json_schema is unknown"}}).encode()
    dialect: Dialect | None = Dialect()
    seen = []
    while dialect is not None:
        seen.append(dialect.json_format)
        dialect = dialect.after_refusal(400, refusal)
    assert seen == ["strict", "schema", "object", "none"]


def test_a_complaint_that_repeats_the_whole_request_is_not_taken_for_a_refusal() -> None:
    item = {"loc": ["body", "messages"], "msg": "too long", "input": {"seed": 1, "top_p": 1}}
    assert Dialect().after_refusal(422, json.dumps({"detail": [item]}).encode()) is None
    extra = {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 1}
    learnt = Dialect().after_refusal(422, json.dumps({"detail": [extra]}).encode())
    assert learnt == Dialect(left_out=frozenset({"seed"}))


# --------------------------------------------------------------------------- limits


def test_concurrency_holds(plain: MockServer) -> None:
    with MockServer(latency=0.03) as server:
        ask(config(server, concurrency=7), [request(number) for number in range(60)])
        stats = server.stats()
    assert stats["max_in_flight"] == 7


def test_retry_after_is_obeyed_by_all_requests() -> None:
    with MockServer(latency=0.01, p429=0.04, retry_after=1.0, seed=5) as server:
        outcomes = ask(config(server, max_tries=50), [request(n) for n in range(150)])
        events = server.events()
    assert all(isinstance(outcome, Response) for outcome in outcomes)
    arrivals = [event["t"] for event in events if event["event"] == "arrival"]
    refused = [event["t"] for event in events if event.get("status") == "429"]
    assert refused
    for end in refused:
        # What was on its way when the reply came may still arrive.
        late = [time for time in arrivals if end + 0.15 < time < end + 0.95]
        assert not late


def test_two_keys_share_the_work() -> None:
    with MockServer(latency=0.02) as server:
        llm = config(server, api_keys_env=["KEY_A", "KEY_B"], concurrency=5)
        ask(llm, [request(number) for number in range(200)])
        stats = server.stats()
    assert stats["per_key"].keys() == {key_label(SECRET_A), key_label(SECRET_B)}
    assert min(stats["per_key"].values()) > 70
    assert set(stats["max_key_in_flight"].values()) == {5}


def test_the_budget_is_never_passed() -> None:
    with MockServer(latency=0.01, pcut=0.03, seed=2) as server:
        budget = Budget(max_cost_usd=0.004)
        outcomes = ask(config(server), [request(number) for number in range(400)], budget)
        stats = server.stats()
    kinds = Counter(type(outcome) for outcome in outcomes)
    assert set(kinds) == {Response, BudgetExhausted}
    spent = sum(outcome.cost_usd for outcome in outcomes if isinstance(outcome, Response))
    assert spent == pytest.approx((stats["prompt_tokens"] + 2 * stats["completion_tokens"]) / 1e6)
    assert 0.002 < spent <= 0.004
    assert stats["repeated_completed"] == 0


# --------------------------------------------------------------------------- keys


def test_a_refused_key_stops_the_run_and_is_not_told() -> None:
    with MockServer(keys="other") as server:
        outcomes = ask(config(server), [request(number) for number in range(50)])
        assert server.stats()["arrivals"] <= 32
    assert all(isinstance(outcome, RunError) for outcome in outcomes)
    assert "KEY_A: HTTP 401" in str(outcomes[0])


@pytest.mark.parametrize("option", ["keys", "quota_keys"])
def test_a_useless_key_is_retired_and_the_others_go_on(option: str) -> None:
    with MockServer(latency=0.01, **{option: SECRET_B if option == "keys" else SECRET_A}) as server:
        llm = config(server, api_keys_env=["KEY_A", "KEY_B"], concurrency=4)
        outcomes = ask(llm, [request(number) for number in range(60)])
        stats = server.stats()
    assert all(isinstance(outcome, Response) for outcome in outcomes)
    assert stats["per_key"][key_label(SECRET_A)] <= 4


def test_no_quota_left_on_any_key_stops_the_run() -> None:
    with (
        MockServer(quota_keys=f"{SECRET_A},{SECRET_B}") as server,
        pytest.raises(RunError, match=r"KEY_A: .*no quota left; KEY_B: .*no quota left"),
    ):
        ask_one(config(server, api_keys_env=["KEY_A", "KEY_B"]), request())


def test_a_missing_or_broken_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEY_A")
    with pytest.raises(UserError, match=r"llms\.formal\.api_keys_env: .* KEY_A is not set"):
        OpenAIEngine.check("formal", config("http://x/v1"))
    monkeypatch.setenv("KEY_A", "two words\nand a line")
    with pytest.raises(UserError, match="KEY_A") as caught:
        OpenAIEngine.check("formal", config("http://x/v1"))
    assert "two words" not in str(caught.value)


def test_a_bad_url_is_named() -> None:
    for url in ("localhost:8000/v1", "ftp://x/v1", "http://"):
        with pytest.raises(UserError, match=r"llms\.formal\.base_url"):
            OpenAIEngine.check("formal", config(url))


def test_a_server_without_keys_gets_no_header(plain: MockServer) -> None:
    before = plain.stats()["per_key"].get("none", 0)
    ask_one(config(plain, api_keys_env=[]), request())
    assert plain.stats()["per_key"]["none"] == before + 1


def _trouble() -> list[tuple[dict[str, Any], str]]:
    return [
        ({"keys": "other"}, ""),
        ({"quota_keys": SECRET_A}, ""),
        ({"pcut": 1.0}, ""),
        ({"pmalformed": 1.0}, ""),
        ({"p500": 1.0}, ""),
        ({}, f"[[mock:400]] {SECRET_A}"),
    ]


@pytest.mark.parametrize(("options", "text"), _trouble())
def test_keys_appear_in_no_error_log_or_repr(
    options: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with MockServer(**options) as server:
        llm = config(server, max_tries=2)
        (error,) = ask(llm, [request(text=text)])
    assert isinstance(error, EngineError | RunError)
    told = "".join(traceback.format_exception(error)) + repr(error) + caplog.text
    told += str(getattr(error, "raw", ""))
    assert SECRET_A not in told
    session = asyncio.run(_made(llm))
    assert SECRET_A not in repr(session.engine) + repr(session.limits)


async def _made(llm: LlmConfig) -> Session:
    return Session(llm)


# --------------------------------------------------------------------------- servers that are gone


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_no_server_stops_the_run() -> None:
    url = f"http://127.0.0.1:{_closed_port()}/v1"
    with pytest.raises(RunError, match=r"127\.0\.0\.1.* does not answer: .*is base_url right"):
        ask_one(config(url, max_tries=3), request())


def test_a_server_that_goes_away_stops_the_run_too() -> None:
    async def main() -> None:
        with MockServer() as server:
            session = Session(config(server, max_tries=3))
            assert await session.engine.generate(request())
        with pytest.raises(RunError, match="does not answer"):
            await session.engine.generate(request(1))
        await session.ask([])

    asyncio.run(main())


def test_a_server_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_BACKOFF_SECONDS", 0.2)

    async def main() -> None:
        port = _closed_port()
        url = f"http://127.0.0.1:{port}/v1"
        session = Session(config(url, max_tries=100, max_backoff_seconds=0.5))
        asked = asyncio.create_task(session.ask([request()]))
        await asyncio.sleep(0.3)
        with MockServer(port=port):
            (response,) = await asked
        assert response.attempts > 1

    asyncio.run(main())


def test_a_wrong_path_stops_the_run(plain: MockServer) -> None:
    url = plain.base_url.replace("/v1", "/v1?version=2")
    with pytest.raises(RunError, match="check base_url and model"):
        ask_one(config(url), request())


# --------------------------------------------------------------------------- what replies mean


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "99999999999"}, 1e7),
        ({"retry-after": "inf"}, 1e7),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1e400"}, 1e7),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 1e7),
        ({"retry-after": "Fri, 99 Foo 99999 23:59:59 GMT"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9" * 400 + "h"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "900000d"}, 1e7),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    now = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT
    assert retry.retry_after(headers, now) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("status", "body", "verdict", "code"),
    [
        (429, b'{"error": {"code": "insufficient_quota"}}', "key", "no_quota"),
        (429, b"slow down", "retry", "rate_limited"),
        (402, b"", "key", "no_quota"),
        (403, b"", "row", "refused"),
        (408, b"", "retry", "server_error"),
        (529, b"", "retry", "server_error"),
        (404, b'{"error": {"message": "model x not found"}}', "run", "not_found"),
        (404, b"", "row", "not_found"),
        (400, b'{"message": "maximum context length is 10"}', "row", "context_length"),
        (400, b'{"error": {"code": "content_filter"}}', "row", "content_filter"),
        (413, b"<html>", "row", "bad_request"),
        (400, b'"odd"', "row", "bad_request"),
        (400, b"\xff\xfe", "row", "bad_request"),
    ],
)
def test_what_a_status_means(status: int, body: bytes, verdict: str, code: str) -> None:
    found = retry.failure(status, {}, body)
    assert (found.verdict, found.code) == (verdict, code)


def test_backoff_is_jittered_and_has_a_ceiling() -> None:
    waits: Callable[[int], list[float]] = lambda n: [retry.backoff(n, 60.0) for _ in range(200)]  # noqa: E731
    assert max(waits(1)) <= 0.02
    assert 30 < max(waits(10**6)) <= 60
    assert min(waits(20)) < 10


def test_tries_without_a_usable_reply_are_counted_at_what_they_may_have_cost() -> None:
    with MockServer(pmalformed=1.0) as server:
        broken = config(server, max_tries=3, max_backoff_seconds=0.01)
        (error,) = asyncio.run(Session(broken).ask([request()]))
    assert isinstance(error, EngineError)
    assert (error.code, error.attempts) == ("malformed", 3)
    tokens = OpenAIEngine.request_tokens(broken, request())
    estimate = tokens.reservation(broken.usd_per_million)
    assert error.lost_tokens == 3 * estimate.tokens > 0
    assert error.lost_usd == pytest.approx(3 * estimate.cost / PICODOLLARS)


def test_a_request_that_is_cancelled_says_what_it_may_have_cost() -> None:
    caught: list[Cancelled] = []

    async def generate(session: Session) -> None:
        try:
            await session.engine.generate(request())
        except Cancelled as error:
            caught.append(error)

    async def cancel(session: Session) -> None:
        pending = asyncio.ensure_future(generate(session))
        while not session.limits.tokens.in_use:
            await asyncio.sleep(0.01)
        pending.cancel()
        await asyncio.wait([pending])
        await session.engine.close()
        await session.limits.close()

    with MockServer(latency=30) as server:
        session = Session(config(server))
        asyncio.run(cancel(session))
    (error,) = caught
    assert (error.attempts, error.lost_tokens) == (1, session.limits.tokens.lost)
    assert error.lost_tokens > 0 and error.lost_usd > 0
