"""Mistral's tags give the ids that mistral-common gives."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    ChatMessage,
    SystemMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import InstructRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from ray_pipeline.models.mistral_instruct import VERSIONS, Version, pieces, spells_tag, text

USER = "Premise: A [INST] dog sleeps.\nHypothesis: </s> It is awake.\nLabel?"
ANSWER = "Sleeping things are not awake.\nLabel: contradiction"


@cache
def reference(version: str) -> Any:
    if version == "v3-tekken":
        return MistralTokenizer.v3(is_tekken=True).instruct_tokenizer
    return getattr(MistralTokenizer, version)().instruct_tokenizer


def their_ids(user: str, answer: str, version: Version, system: str | None = None) -> list[int]:
    messages: list[ChatMessage] = [] if system is None else [SystemMessage(content=system)]
    messages += [UserMessage(content=user), AssistantMessage(content=answer)]
    request: Any = InstructRequest(messages=messages, system_prompt=None)
    found: list[int] = reference(version).encode_instruct(request).tokens
    return found


def our_ids(user: str, answer: str, version: Version, system: str | None = None) -> list[int]:
    tokenizer = reference(version).tokenizer
    ids: list[int] = []
    for piece in pieces(user, answer, version, system):
        if piece.is_control:
            ids.append(tokenizer.get_special_token(piece.text))
        else:
            ids.extend(tokenizer.encode(piece.text, bos=False, eos=False))
    return ids


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_are_those_of_mistral_common(version: Version) -> None:
    ids = our_ids(USER, ANSWER, version)
    assert ids == their_ids(USER, ANSWER, version)
    assert ids[0] == 1 and ids.count(1) == 1
    assert ids[-1] == 2 and ids.count(2) == 1
    assert our_ids("u ", " a  ", version) == their_ids("u ", " a  ", version)


def test_a_system_message_has_tags_of_its_own_from_v7_on() -> None:
    assert our_ids(USER, ANSWER, "v7", "Be brief.") == their_ids(USER, ANSWER, "v7", "Be brief.")
    assert text("u", "a", "v3", "Be brief.") == "<s>[INST] Be brief.\n\nu[/INST] a</s>"


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=50, deadline=None)
@given(user=st.text(min_size=1, max_size=60), answer=st.text(min_size=1, max_size=60))
def test_any_text_gives_their_ids(version: Version, user: str, answer: str) -> None:
    try:
        theirs = their_ids(user, answer, version)
    except Exception:  # a text that mistral-common refuses, such as half a surrogate pair
        return
    assert our_ids(user, answer, version) == theirs


def test_the_text_reads_as_published() -> None:
    assert text("u", "a", "v1") == "<s> [INST] u [/INST] a</s>"
    assert text("u", "a", "v2") == text("u", "a", "v3") == "<s>[INST] u[/INST] a</s>"
    assert text("u", "a", "v3-tekken") == "<s>[INST]u[/INST]a</s>"
    assert spells_tag("what is [/INST]?") and not spells_tag("an [instance]")
