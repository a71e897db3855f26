"""Errors of the servers that are in use: each means here what the table says."""

from __future__ import annotations

import pytest
from llm.engines.dialects import OUTCOMES, PAGE, REPLIES, ErrorReply, page
from multidict import CIMultiDict

from ray_pipeline.llm.engines.answers import read_answer
from ray_pipeline.llm.engines.replies import Failure, failure


def _meaning(reply: ErrorReply) -> Failure:
    if reply.status == 200:
        answer = read_answer(reply.bytes)
        assert isinstance(answer, Failure)
        return answer
    return failure(reply.status, CIMultiDict(reply.headers), reply.bytes)


@pytest.mark.parametrize("reply", REPLIES, ids=str)
def test_an_error_means_what_the_table_says(reply: ErrorReply) -> None:
    found = _meaning(reply)
    verdict = f"{found.unless}?" if found.unless else found.verdict
    assert (verdict, found.code) == (reply.verdict, reply.code)
    assert found.pause_seconds == reply.pause


@pytest.mark.parametrize("reply", REPLIES, ids=str)
def test_the_servers_own_words_are_kept(reply: ErrorReply) -> None:
    assert reply.words in _meaning(reply).detail


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text() == page(PAGE.read_text()), "run tests/llm/engines/dialects.py"
    assert {reply.verdict for reply in REPLIES} == set(OUTCOMES)
