"""The `openai` engine and a real server that replies in odd ways: every request ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.asked_server import Asked, asked, in_short, llm_config
from support.odd_replies import STATUSES, bodies
from support.scripted_server import Scripted, ScriptedServer, answer, cases
from support.soak import EXAMPLES

from ray_pipeline.core.errors import RunError
from ray_pipeline.llm.engines import openai, refusals
from ray_pipeline.llm.types import EngineError

TEST = "Say OK."


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_A", "sk-secret-aaaaaaaaaaaa")
    monkeypatch.setenv("KEY_B", "weird_bbbbbbbbbbbbbbbb")


def script(odd: Scripted, when: Callable[[str], bool]) -> Callable[[str], Scripted]:
    """The odd reply for some texts, and an answer that repeats the text for the others."""
    return lambda text: odd if when(text) else answer(text)


def always(_: str) -> bool:
    """Every request, the test request too."""
    return True


def is_odd(text: str) -> bool:
    """Requests whose text says so."""
    return "odd" in text


# --------------------------------------------------------------------------- leases


def test_three_hundred_replies_without_a_message_leave_their_slots_free() -> None:
    odd, _ = cases()["message-null"]
    with ScriptedServer(script(odd, is_odd)) as server:
        texts = [*(f"odd {number}" for number in range(300)), "good"]
        outcomes = asked(llm_config(server.base_url, concurrency=16), texts)
        assert len(server.texts) == 300 * 3 + 1
    assert Counter(map(in_short, outcomes)) == {"malformed": 300, "good": 1}
    assert "HTTP 200: the reply holds no answer" in outcomes[0].detail
    assert outcomes[0].raw == odd.body.decode()


@pytest.fixture(scope="module")
def any_server() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda _: answer()) as server:
        yield server


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_whatever_a_server_replies_every_lease_ends(
    any_server: ScriptedServer, data: st.DataObject
) -> None:
    body, status = data.draw(bodies()), data.draw(STATUSES)
    length = data.draw(st.sampled_from([*[0] * 8, -1, 3]))
    kind = data.draw(
        st.sampled_from(["application/json", "text/html; charset=latin-1", "", "x;;=;"])
    )
    headers = {"Content-Type": kind}
    if status != 204:
        headers["Content-Length"] = str(max(0, len(body) + length))
    if length > 0:
        headers["Connection"] = "close"
    odd = Scripted(status, body if status != 204 else b"", headers)
    any_server.reply = script(odd, is_odd)
    config = llm_config(any_server.base_url, concurrency=2, max_tries=2, timeout_seconds=0.5)
    for outcome in asked(config, ["odd 1", "good", "odd 2"]):
        assert not isinstance(outcome, BaseException) or isinstance(outcome, EngineError | RunError)


def test_a_defect_of_ours_fails_the_row_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(openai, "read_answer", defect)
    with ScriptedServer(lambda _: answer()) as server:
        outcomes = asked(llm_config(server.base_url), ["1", "2"])
    assert [outcome.code for outcome in outcomes] == ["malformed"] * 2
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_lease_ends_where_counting_its_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai.OpenAIEngine, "_cost", lambda *_: float("nan"))
    with ScriptedServer(lambda _: answer()) as server:
        (outcome,) = asked(llm_config(server.base_url), ["1"])
    assert isinstance(outcome, ValueError)


# --------------------------------------------------------------------------- whose failure it is


@pytest.mark.parametrize(
    ("name", "code"), [("flagged-403", "content_filter"), ("firewall-403", "refused")]
)
def test_a_403_for_some_rows_is_their_own(name: str, code: str) -> None:
    odd, _ = cases()[name]
    with ScriptedServer(script(odd, is_odd)) as server:
        texts = [f"{'odd' if number % 4 == 0 else 'good'} {number}" for number in range(60)]
        outcomes = asked(llm_config(server.base_url, concurrency=8), texts)
        assert len(set(server.texts) - {TEST}) == 60
        assert len(server.texts) - server.texts.count(TEST) == 60  # nothing was tried twice
    assert Counter(map(in_short, outcomes))[code] == 15
    assert [in_short(o) for o in outcomes if not isinstance(o, EngineError)] == [
        text for text in texts if not is_odd(text)
    ]
    words = "flagged for: violence" if name == "flagged-403" else "403 Forbidden Request blocked"
    assert words in next(o for o in outcomes if isinstance(o, EngineError)).detail


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_rows_that_are_refused_alone_are_told_from_a_bad_key_by_a_test_request(rows: int) -> None:
    # As in a retry: the neighbours have their answers already, and are not asked again.
    odd, _ = cases()["firewall-403"]
    with ScriptedServer(script(odd, is_odd)) as server:
        outcomes = asked(
            llm_config(server.base_url, concurrency=4), [f"odd {number}" for number in range(rows)]
        )
        assert 1 <= server.texts.count(TEST) <= 4
    assert [in_short(outcome) for outcome in outcomes] == ["refused"] * rows


def test_what_a_test_request_costs_is_counted_with_the_row_that_it_was_for() -> None:
    odd, _ = cases()["firewall-403"]
    with ScriptedServer(script(odd, is_odd)) as server:
        (outcome,) = asked(llm_config(server.base_url), ["odd"])
        assert server.texts == ["odd", TEST]
    assert isinstance(outcome, EngineError)
    assert (outcome.lost_tokens, outcome.lost_usd) == (15, pytest.approx(20e-6))


@pytest.mark.parametrize("rows", [1, 100])
def test_a_key_that_is_refused_for_every_row_stops_the_run_with_the_servers_words(
    rows: int,
) -> None:
    odd, _ = cases()["key-403"]
    with ScriptedServer(script(odd, always)) as server:
        texts = [f"row {number}" for number in range(rows)]
        outcomes = asked(llm_config(server.base_url, concurrency=8), texts)
        assert len(server.texts) <= 8 + 1
    for outcome in outcomes:
        assert isinstance(outcome, RunError)
        assert "no usable API key is left" in str(outcome)
        assert "HTTP 403: Your account is not allowed to use this endpoint" in str(outcome)


def test_a_key_that_is_taken_away_in_the_middle_is_found_out() -> None:
    odd, _ = cases()["key-403"]
    served: list[str] = []

    def reply(text: str) -> Scripted:
        served.append(text)
        return odd if len(served) > 20 else answer(text)

    with ScriptedServer(reply) as server:
        texts = [f"row {number}" for number in range(100)]
        outcomes = asked(llm_config(server.base_url, concurrency=4), texts)
        assert len(server.texts) < 20 + 4 + refusals.SUSPICIOUS + 4
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert kinds["Response"] == 20
    assert kinds["EngineError"] < refusals.SUSPICIOUS
    assert kinds["RunError"] == 80 - kinds["EngineError"]


def test_the_other_key_takes_over_from_one_that_is_refused() -> None:
    odd, _ = cases()["key-403"]
    server: ScriptedServer

    def reply(text: str) -> Scripted:
        return odd if server.keys[-1] == "sk-secret-aaaaaaaaaaaa" else answer(text)

    with ScriptedServer(reply) as server:
        config = llm_config(server.base_url, concurrency=1, api_keys_env=["KEY_A", "KEY_B"])
        outcomes = asked(config, [f"row {number}" for number in range(20)])
    assert [in_short(outcome) for outcome in outcomes] == [f"row {number}" for number in range(20)]


@pytest.mark.parametrize("name", ["quota-google", "key-400"])
def test_a_key_that_is_out_of_use_is_set_aside_at_once(name: str) -> None:
    odd, _ = cases()[name]
    with ScriptedServer(script(odd, always)) as server:
        texts = [f"row {number}" for number in range(50)]
        outcomes = asked(llm_config(server.base_url, concurrency=4, max_tries=8), texts)
        assert len(server.texts) <= 4
    words = json.loads(odd.body)
    words = words[0] if isinstance(words, list) else words
    assert all(words["error"]["message"] in str(outcome) for outcome in outcomes)
    assert all(isinstance(outcome, RunError) for outcome in outcomes)


def test_a_wrong_address_stops_the_run_and_a_404_of_one_row_does_not() -> None:
    odd = Scripted(404, b"<html>no such page</html>")
    with ScriptedServer(script(odd, always)) as server:
        (error,) = asked(llm_config(server.base_url), ["row"])
        assert isinstance(error, RunError)
        assert "HTTP 404: no such page; check base_url and model" in str(error)
        server.reply = script(odd, is_odd)
        outcomes = asked(llm_config(server.base_url), ["odd 1", "good", "odd 2"])
    assert [in_short(outcome) for outcome in outcomes] == ["not_found", "good", "not_found"]


def test_a_refused_request_waits_for_its_neighbours_before_it_is_judged() -> None:
    odd, _ = cases()["firewall-403"]

    def reply(text: str) -> Scripted:
        if is_odd(text):
            return odd
        time.sleep(0.3)  # a firewall is quicker than a model
        return answer(text)

    with ScriptedServer(reply) as server:
        texts = [*(f"odd {number}" for number in range(7)), "good"]
        outcomes = asked(llm_config(server.base_url, concurrency=8), texts)
        assert TEST not in server.texts
    assert [in_short(outcome) for outcome in outcomes] == ["refused"] * 7 + ["good"]


def test_the_test_request_is_counted_by_the_budget() -> None:
    odd, _ = cases()["firewall-403"]

    async def main(base_url: str) -> tuple[Any, int]:
        session = Asked(llm_config(base_url))
        outcomes = await session.ask(["odd"])
        spent = session.limits.cost.spent
        session.assert_all_leases_have_ended()
        await session.close()
        return outcomes, spent

    with ScriptedServer(script(odd, is_odd)) as server:
        _, spent = asyncio.run(main(server.base_url))
    assert spent == 10 * 10**6 + 5 * 2 * 10**6  # picodollars: its usage at the configured prices


# --------------------------------------------------------------------------- the other cases


def test_an_error_inside_a_success_is_tried_again_and_told() -> None:
    odd, _ = cases()["error-in-200"]
    with ScriptedServer(script(odd, always)) as server:
        (error,) = asked(llm_config(server.base_url, max_tries=3), ["row"])
        assert len(server.texts) == 3
    assert error.code == "server_error"
    assert "Provider returned error: upstream overloaded (after 3 tries)" in error.detail


def test_a_complaint_without_a_place_fails_its_row_with_its_words() -> None:
    odd, _ = cases()["loc-null"]
    with ScriptedServer(script(odd, is_odd)) as server:
        bad, good = asked(llm_config(server.base_url, concurrency=1), ["odd", "good"])
        assert len(server.texts) == 2
    assert (bad.code, bad.detail) == ("bad_request", "HTTP 422: bad value")
    assert good.text == "good"


def test_negative_usage_gives_no_budget_back() -> None:
    odd, _ = cases()["negative-usage"]
    with ScriptedServer(script(odd, always)) as server:
        (response,) = asked(llm_config(server.base_url), ["row"])
    assert response.text == "Paris is the capital of France."
    assert response.prompt_tokens > 0 and response.completion_tokens > 0
    assert response.cost_usd > 0


def test_a_key_in_a_servers_words_is_masked_wherever_it_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    for padding in range(360, 420, 7):
        words = f"{'x' * padding} weird_bbbbbbbbbbbbbbbb is a key"
        with ScriptedServer(
            script(Scripted.of(401, {"error": {"message": words}}), always)
        ) as server:
            config = llm_config(server.base_url, api_keys_env=["KEY_B"])
            (error,) = asked(config, ["row"])
        assert isinstance(error, RunError)
        assert "weird_bb" not in str(error) + caplog.text
