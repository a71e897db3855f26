"""Thinking is split off as each family of models marks it, and no other text is touched."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES
from support.thinking import TAGS, texts_without_leading_thinking
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ray_pipeline.models.control_tokens import ControlTokens
from ray_pipeline.models.thinking import ThinkingTokens, prefilled_tag, split_thinking

ANSWER = "Paris is the capital of France."

_MANY = settings(max_examples=EXAMPLES, deadline=None)
_ANALYSIS = "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant"

#: Model, text as a server without a parser or a local engine returns it, thinking, answer.
SPLIT = [
    ("DeepSeek-R1", f"<think>\nThe capital... yes.\n</think>\n\n{ANSWER}", "The capital... yes."),
    ("R1, prefilled", f"Okay.\n\nYes.\n</think>\n\n{ANSWER}", "Okay.\n\nYes."),
    ("V3.1, prefilled", f"We need the capital.</think>{ANSWER}", "We need the capital."),
    ("Qwen3, no thinking", f"<think>\n\n</think>\n\n{ANSWER}", ""),
    ("Qwen3, prefilled", f"\n</think>\n\n{ANSWER}", ""),
    ("GLM-4.5", f"\n<think>The user asks.</think>\n{ANSWER}", "The user asks."),
    ("repeated", f"<think>One.</think>\n<think>Two.</think>\n{ANSWER}", "One.\n\nTwo."),
    ("nested", f"<think>1.<think>2.</think>3.</think>{ANSWER}", "1.<think>2.\n\n3."),
    ("mentions a tag", f"<think>I write <think> here.</think>\n{ANSWER}", "I write <think> here."),
    ("closed twice", f"<think>One.\n</think>\n</think>\n\n{ANSWER}", "One."),
    ("Seed-OSS", f"<seed:think>Got it.</seed:think>{ANSWER}", "Got it."),
    ("Seed-OSS, prefilled", f"Got it.</seed:think>{ANSWER}", "Got it."),
    ("Magistral", f"[THINK]Which city?[/THINK]{ANSWER}", "Which city?"),
    ("Gemini", f"<thought>**Naming it**\nParis.\n</thought>{ANSWER}", "**Naming it**\nParis."),
    ("prompted", f"<thinking>\nParis.\n</thinking>\n\n{ANSWER}", "Paris."),
    ("prompted, in capitals", f"<THINKING>Paris.</THINKING> {ANSWER}", "Paris."),
    ("prompted", f"<reasoning>Paris.</reasoning>\n{ANSWER}", "Paris."),
    ("Command A", f"<|START_THINKING|>Paris.<|END_THINKING|>{ANSWER}", "Paris."),
    ("OpenThinker", f"<|begin_of_thought|>\n\nParis.\n\n<|end_of_thought|>\n\n{ANSWER}", "Paris."),
    ("Kimi-VL", f"◁think▷Paris.◁/think▷{ANSWER}", "Paris."),
    ("Gemma 4", f"<|channel>thought\nParis.\n<channel|>{ANSWER}", "Paris."),
    ("Granite 3.2", f"Here is my thought process: Paris.\nHere is my response: {ANSWER}", "Paris."),
    ("gpt-oss", f"{_ANALYSIS}<|channel|>final<|message|>{ANSWER}<|return|>", "Easy."),
    ("gpt-oss, JSON", f"{_ANALYSIS}<|channel|>final <|constrain|>json<|message|>[1]", "Easy."),
    ("gpt-oss, decoded", f"analysisThe user asks.assistantfinal{ANSWER}", "The user asks."),
]


@pytest.mark.parametrize(("model", "text", "thinking"), SPLIT, ids=[case[0] for case in SPLIT])
def test_thinking_and_answer_of_each_family(model: str, text: str, thinking: str) -> None:
    answer = "[1]" if model == "gpt-oss, JSON" else ANSWER
    assert split_thinking(text) == (thinking, answer)


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nThe capital of France, let me think about",
        "<think>",
        "\n\n<seed:think>Got it, let me",
        "[THINK]Let me",
        "<think>One.</think>\n<think>Two, and",
        "<|channel|>analysis<|message|>The user",
        "The end.\n</think>",
    ],
)
def test_a_text_cut_off_in_its_thinking_has_no_answer(text: str) -> None:
    thinking, answer = split_thinking(text)
    assert answer == ""
    assert not any(tag in thinking for tag in ("<think>", "</think>", "[THINK]", "<|"))


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        "",
        "  leading and trailing blanks  ",
        "R1 puts its thoughts into <think>...</think> and then answers.",
        "Close it with the </think> tag, then answer.",
        "Close it with `</think>`\nthen answer.",
        'The text "</think>" ends it.',
        "The tag is </think>.",
        "An example:\n```\nLet me see.\n</think>\nParis\n```\nThat is all.",
        "First <think>\nsome thought\n</think>\nthen the answer.",
        "analysis of the text: it was assistantless.",
        "[THINKING] is no tag, nor is <thinks>.",
        "Use <|channel|> tokens.",
    ],
)
def test_a_text_that_mentions_tags_is_returned_as_it_is(text: str) -> None:
    assert split_thinking(text) == ("", text)


def test_a_closing_tag_alone_counts_only_where_it_may() -> None:
    text = f"Let me see.\n</think>\n\n{ANSWER}"
    assert split_thinking(text, closing_only=False) == ("", text)
    assert split_thinking(f"<think>{text}", closing_only=False) == ("Let me see.", ANSWER)


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<｜Assistant｜><think>", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n", ""),
        ("[INST]hi[/INST][THINK]", "[THINK]"),
    ],
)
def test_a_chat_template_that_opens_the_thinking_is_noticed(prompt: str, tag: str) -> None:
    assert prefilled_tag(prompt) == tag


TURN = "{% for m in messages %}{{ m.content }} {% endfor %}"
SWITCH = TURN + "{% if enable_thinking is not defined or enable_thinking %}[THINK] {% endif %}"


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """Words as tokens, the given ones special; its template opens the thinking."""
    names = ["<eos>", "<unk>", *special]
    vocabulary = {word: number for number, word in enumerate([*names, "one", "two", "Paris"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
    )
    fast.chat_template = SWITCH
    return fast


@pytest.mark.parametrize(
    ("special", "words", "parts"),
    [
        (("[THINK]", "[/THINK]"), "[THINK] one two [/THINK] Paris <eos>", ("one two", "Paris")),
        (("[THINK]", "[/THINK]"), "[THINK] one two", ("one two", "")),
        (
            ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
            "<|channel|> analysis <|message|> one <|end|> <|start|> assistant"
            " <|channel|> final <|message|> Paris <eos>",
            ("one", "Paris"),
        ),
    ],
    ids=["Magistral", "cut off", "gpt-oss"],
)
def test_marks_that_are_special_tokens_are_not_lost(
    special: tuple[str, ...], words: str, parts: tuple[str, str]
) -> None:
    """Decoding without special tokens, as for any answer, would join thinking and answer."""
    made = tokenizer(*special)
    made.add_tokens(["analysis", "assistant", "final"])
    text = ThinkingTokens(made).text(made.convert_tokens_to_ids(words.split(" ")))
    assert text is not None
    assert split_thinking(text) == parts


def test_other_special_tokens_are_left_to_the_decoding() -> None:
    made = tokenizer("[THINK]", "[/THINK]", "<|end|>")
    tokens = made.convert_tokens_to_ids(["Paris", "<|end|>", "<eos>"])
    assert ThinkingTokens(made).text(tokens) is None


def test_the_prompt_says_whether_the_thinking_is_open() -> None:
    made = tokenizer("[THINK]", "[/THINK]")
    chat = [{"role": "user", "content": "one two"}]
    marks, control = ThinkingTokens(made), ControlTokens(made)
    assert marks.opened(control.chat(chat)) == "[THINK]"
    assert marks.opened(control.chat(chat, enable_thinking=False)) == ""
    quoting = [{"role": "user", "content": "one [THINK] two"}]
    assert marks.opened(control.chat(quoting, enable_thinking=False)) == ""


@_MANY
@given(texts_without_leading_thinking())
def test_a_text_without_leading_thinking_is_unchanged(text: str) -> None:
    assert split_thinking(text) == ("", text)


_PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>[]|◁▷"))


@_MANY
@given(st.sampled_from(TAGS), _PLAIN, _PLAIN, st.sampled_from(["", " ", "\n", "\n\n"]))
def test_tagged_thinking_is_split_off_whole(
    tags: tuple[str, str], thinking: str, answer: str, blank: str
) -> None:
    opening, closing = tags
    text = f"{blank}{opening}{blank}{thinking}{blank}{closing}{blank}{answer}{blank}"
    assert split_thinking(text) == (thinking.strip(), answer.strip())


@_MANY
@given(st.lists(st.sampled_from([*sum(TAGS, ()), "a", "\n", " ", "`", "<|channel|>", "final"])))
def test_no_order_of_tags_loses_a_letter(pieces: list[str]) -> None:
    text = "".join(pieces)
    thinking, answer = split_thinking(text)
    if (thinking, answer) != ("", text):
        assert answer == answer.strip()
        assert (thinking + answer).count("a") <= text.count("a")
    letters = re.sub("|".join(map(re.escape, sum(TAGS, ()))), "", text).count("a")
    if "channel" not in text:
        assert (thinking + answer).count("a") >= letters
