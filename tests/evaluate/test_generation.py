"""An answer depends on its question alone, ends where training taught it, and is the model's."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.evaluate import generation
from ray_pipeline.evaluate.generation import TextGenerator, timed
from ray_pipeline.models.decoding import Decoding

QUESTIONS = ["a", "what is the capital of a ?", "b c", "what is d . e . f ?", "the question of a"]
KINDS = ["llama", "gpt2"]


def generator(kind: str = "llama", chat: bool = False, **more: Any) -> TextGenerator:
    return TextGenerator(tiny_model(kind, **more), word_tokenizer(chat))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_greedy_answer_does_not_depend_on_its_batch(kind: str, chat: bool) -> None:
    ask = generator(kind, chat)
    decoding = Decoding(max_new_tokens=12)
    together = ask(QUESTIONS, decoding, batch_rows=5)
    assert len({answer.text for answer in together}) > 1
    assert together == ask(QUESTIONS, decoding, batch_rows=2)
    assert together == [ask([question], decoding)[0] for question in QUESTIONS]
    assert together[::-1] == ask(QUESTIONS[::-1], decoding)


@pytest.mark.parametrize("kind", KINDS)
def test_a_greedy_answer_is_the_likeliest_next_token_each_time(kind: str) -> None:
    ask = generator(kind)
    ids, made = ask.text.prompts(["what is a ?"])[0], []
    while len(made) < 10 and not set(made) & ask.text.ends:
        with torch.no_grad():
            logits = ask.model(torch.tensor([[*ids, *made]])).logits
        made.append(int(logits[0, -1].argmax()))
    assert ask(["what is a ?"], Decoding(10)) == [ask.text.answer(made)]


def test_an_answer_ends_at_the_models_own_end_and_its_neighbours_go_on() -> None:
    ask = generator()
    free = ask(QUESTIONS, Decoding(8))
    assert not any(answer.ended for answer in free)
    tokens = ask._tokens(ask.text.prompts(QUESTIONS[:1]), 8, Decoding(8))[0]
    end = next(token for token in tokens if token != tokens[0])

    stopping = TextGenerator(ask.model, word_tokenizer())
    stopping.text.ends |= {end}
    stopped = stopping(QUESTIONS, Decoding(8))
    assert stopped[0].ended and stopped[0].tokens == tokens.index(end) + 1
    for cut, whole in zip(stopped, free, strict=True):
        assert cut == whole if not cut.ended else whole.text.startswith(cut.text)


def test_the_models_own_decoding_is_not_used_and_not_lost() -> None:
    ask = generator()
    before = ask(QUESTIONS, Decoding(8))
    own = ask.model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.min_new_tokens = True, 9.0, 9.0, 8
    assert ask(QUESTIONS, Decoding(8)) == before
    assert ask.model.generation_config is own


def test_drawn_answers_are_those_of_their_seed() -> None:
    ask = generator()

    def drawn(seed: int) -> list[str]:
        return [answer.text for answer in ask(QUESTIONS, Decoding(12, 1.5, seed))]

    state = torch.get_rng_state()
    assert drawn(1) == drawn(1) != drawn(2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_near_the_last_position_get_what_room_there_is(kind: str) -> None:
    ask = generator(kind)  # of 64 positions
    space = 65 - len(ask.text.prompts(["a"])[0])  # of one-token words in a question
    questions = ["a", " ".join("b" * (space - 3)), " ".join("c" * (space - 5))]
    decoding = Decoding(max_new_tokens=16)
    together = ask(questions, decoding)
    assert [answer.tokens for answer in together] == [16, 3, 5]
    assert together == [ask([question], decoding)[0] for question in questions]
    with pytest.raises(UserError, match="has 64 tokens, and the model takes 64"):
        ask([" ".join("b" * space)], decoding)


def test_time_is_taken_of_answers_alone_and_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))  # a second between two looks
    monkeypatch.setattr(generation, "time", clock)
    ask = generator()
    answers, speed = timed(ask, QUESTIONS, Decoding(8), batch_rows=2)
    assert answers == ask(QUESTIONS, Decoding(8))
    assert (speed.latency_seconds, speed.latency_prompts) == (1, len(QUESTIONS))
    assert speed.tokens_per_second == sum(answer.tokens for answer in answers)
