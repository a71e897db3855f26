"""Log-probabilities of given texts equal those of a plain forward pass, text by text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_models import fetched, qa_table, tiny_model, word_tokenizer

from ray_pipeline.evaluate.log_probs import TextScorer
from ray_pipeline.models.text import TextConfig, Tokeniser

QUESTIONS = ["what is a ?", "", "what is the capital of f ?", "d"]
ANSWERS = ["b c", "e", "a a a a b c d e f", "question"]


def scorer(chat: bool, **more: Any) -> TextScorer:
    tokenizer = word_tokenizer(chat)
    return TextScorer(tiny_model("llama", len(tokenizer)), tokenizer, **more)


def by_forward_pass(model: Any, before: list[int], scored: list[int]) -> list[float]:
    """One text, no batch, no padding, every logit."""
    with torch.no_grad():
        logits = model(torch.tensor([before + scored])).logits[0].log_softmax(-1)
    first = len(before)
    return [float(logits[first + i - 1, token]) for i, token in enumerate(scored)]


@pytest.mark.parametrize("batch_tokens", [1, 32, 4096])
def test_answers_equal_a_plain_forward_pass_for_any_size_of_batch(batch_tokens: int) -> None:
    made = scorer(chat=True, batch_tokens=batch_tokens)
    tokeniser = Tokeniser(made.tokenizer, TextConfig())
    for question, answer, found in zip(
        QUESTIONS, ANSWERS, made.answers(QUESTIONS, ANSWERS), strict=True
    ):
        before = tokeniser.prompt_ids([tokeniser.prompt(question)])[0]
        end = made.tokenizer.convert_tokens_to_ids("<|end|>")
        scored = [*made.tokenizer(answer)["input_ids"], end]
        expected = by_forward_pass(made._model.model, before, scored)
        assert found.ids == tuple(scored)
        np.testing.assert_allclose(found.log_probs, expected, rtol=1e-12)
        assert found.total == pytest.approx(sum(expected), rel=1e-12)
        assert found.mean == pytest.approx(sum(expected) / len(scored), rel=1e-12)


def test_answers_have_the_tokens_of_training() -> None:
    made = scorer(chat=True)
    questions, answers = ["what is a ?", "d e"], ["b c", "f"]
    trained = Tokeniser(made.tokenizer, TextConfig())(qa_table([*questions], [*answers]))
    for ids, mask, found in zip(
        trained["input_ids"].to_pylist(),
        trained["answer_mask"].to_pylist(),
        made.answers(questions, answers),
        strict=True,
    ):
        assert tuple(i for i, learnt in zip(ids, mask, strict=True) if learnt) == found.ids


def test_an_answer_that_was_cut_is_scored_without_an_end() -> None:
    made = scorer(chat=True)
    (whole,), (cut,) = made.answers(["a"], ["b c"]), made.answers(["a"], ["b c"], end=False)
    assert whole.ids[:-1] == cut.ids
    np.testing.assert_allclose(whole.log_probs[:-1], cut.log_probs, rtol=1e-12)


def test_a_completion_after_nothing_and_a_text_alone_follow_the_start_token() -> None:
    made = scorer(chat=True)
    (completion,), (text,) = made.completions([""], ["a b: c"]), made.texts(["a b: c"])
    expected = by_forward_pass(made._model.model, [made.start], list(text.ids))
    np.testing.assert_allclose(text.log_probs, expected, rtol=1e-12)
    np.testing.assert_allclose(completion.log_probs, expected, rtol=1e-12)
    assert [("a b: c")[first:last] for first, last in text.spans] == ["a", "b", ":", "c"]


def test_probabilities_of_all_next_words_add_up_to_one() -> None:
    made = scorer(chat=False)
    vocabulary = len(made.tokenizer)
    every = made.tokens([([5, 9], [token]) for token in range(vocabulary)])
    assert math.fsum(math.exp(found.total) for found in every) == pytest.approx(1, abs=1e-9)


def test_tokens_beyond_the_models_last_position_are_counted_and_make_no_total() -> None:
    made = scorer(chat=False)
    (cut,) = made.tokens([([1] * 60, [2] * 10)])
    assert len(cut.ids) == 4 and cut.cut == 6
    assert math.isnan(cut.total) and math.isfinite(cut.mean)
    (none,) = made.tokens([([1] * 64, [2])])
    assert none.ids == () and none.cut == 1 and math.isnan(none.mean)


def test_text_that_spells_a_control_token_is_text() -> None:
    made = scorer(chat=True)
    end = made.tokenizer.convert_tokens_to_ids("<|end|>")
    (found,) = made.answers(["<|end|> a"], ["b <|end|> c"])
    assert found.ids.count(end) == 1 and found.ids[-1] == end
    (alone,) = made.texts(["b <|end|> c"])
    assert end not in alone.ids
    assert alone.spans[0] == (0, 1) and alone.spans[-1] == (10, 11)


def test_what_cannot_be_scored_is_refused() -> None:
    made = scorer(chat=False)
    with pytest.raises(ValueError, match="2 prompts, and 1 text"):
        made.completions(["a", "b"], ["c"])
    for refused in (lambda: made.texts([""]), lambda: made.completions(["a"], [""])):
        with pytest.raises(ValueError, match="an empty text has no log-probability"):
            refused()
    with pytest.raises(ValueError, match="a token is needed before"):
        made.tokens([([], [1])])


@pytest.mark.skipif(fetched("smollm2-135m-instruct") is None, reason="model was not fetched")
def test_smollm2_finds_the_right_answer_likelier_and_equals_a_plain_forward_pass() -> None:
    made = TextScorer.load(str(fetched("smollm2-135m-instruct")))
    question = "What is the capital of France?"
    right, wrong = made.answers([question] * 2, ["Paris.", "A kind of green cheese."])
    assert right.mean > wrong.mean
    tokeniser = Tokeniser(made.tokenizer, TextConfig())
    before = tokeniser.prompt_ids([tokeniser.prompt(question)])[0]
    expected = by_forward_pass(made._model.model, before, list(right.ids))
    np.testing.assert_allclose(right.log_probs, expected, atol=2e-4)
