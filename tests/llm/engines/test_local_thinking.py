"""Local engines return a text in which the thinking can be found, whoever opened it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.engines.transformers import TransformersEngine
from ray_pipeline.llm.engines.vllm import VllmEngine
from ray_pipeline.llm.types import AnswerFormat, Request, Sampling
from ray_pipeline.models.thinking import ThinkingTokens
from ray_pipeline.rundir.responses import Response

SWITCH = "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"


def thinker(folder: Path) -> str:
    """A model of random weights whose chat template opens the thinking."""
    tokenizer = word_tokenizer(chat=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template += SWITCH
    tokenizer.save_pretrained(folder)
    tiny_model(vocabulary=len(tokenizer)).save_pretrained(folder)
    return str(folder)


def request(**more: AnswerFormat) -> Request:
    message = {"role": "user", "content": "what is the capital"}
    return Request("ask", "m", "r", (message,), Sampling(4, 0.0), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("switches", "opens"), [({}, True), ({"enable_thinking": False}, False)])
def test_what_the_template_opened_is_part_of_the_text(
    switches: dict[str, bool], opens: bool, tmp_path: Path
) -> None:
    model = thinker(tmp_path)
    config = LlmConfig(
        model=model, engine="transformers", dtype="float32", chat_template_kwargs=switches
    )
    response = asyncio.run(TransformersEngine(config, model).generate(request()))
    assert isinstance(response, Response), response
    assert response.text.startswith("<think>") == opens
    # Four random words: where the thinking is open, they are part of it.
    assert not (opens and response.apart().text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("text", "<think>what is"), ("label", "what is")],
    ids=["free", "under constraints"],
)
def test_decoding_under_constraints_has_no_thinking(kind: str, text: str) -> None:
    tokenizer = word_tokenizer(chat=True)
    tokenizer.add_tokens(["<think>"])
    engine = VllmEngine(LlmConfig(model="m", engine="vllm"), "m")
    engine._thinking = ThinkingTokens(tokenizer)
    prompt = tokenizer.convert_tokens_to_ids(["what", "<think>"])
    generated = SimpleNamespace(text="what is", token_ids=[])
    asked = request(format=AnswerFormat(kind, ("what is", "no")))  # type: ignore[arg-type]
    assert engine._text(generated, prompt, asked) == text
