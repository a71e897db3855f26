"""The thinking of reasoning models: how they mark it in their text, and the split into two.

A reasoning model thinks before it answers. Servers with a parser for the model send its thinking in
a field of its own; every other server, and every local engine, returns it inside the text:
``<think>...</think>`` and the answer.

Only thinking at the beginning of a text is split off, so a text that mentions a tag further on
keeps it. One mark may come later: the closing tag of a block that the chat template has opened
(DeepSeek-R1, Qwen3-Thinking, Seed-OSS). It counts where it stands as a model writes it: on a line
of its own, or between two texts without a blank, and not in quotation marks or a code block. Prose
about tags writes ``the </think> tag``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Tags:
    """How one family of models marks its thinking: regular expressions."""

    opening: str
    closing: str
    #: Whether chat templates write the opening tag, so that the text may have the closing one only.
    is_prefilled: bool = False


_TAGS = (
    # DeepSeek-R1, QwQ, Qwen3, GLM-4.5, MiniMax-M2, Nemotron, Hunyuan, ERNIE 4.5, Olmo 3, Step 3
    _Tags(r"<think>", r"</think>", is_prefilled=True),
    _Tags(r"<seed:think>", r"</seed:think>", is_prefilled=True),  # Seed-OSS
    _Tags(r"<mm:think>", r"</mm:think>", is_prefilled=True),  # MiniMax-M3
    _Tags(r"\[THINK\]", r"\[/THINK\]", is_prefilled=True),  # Magistral
    _Tags(r"<thought>", r"</thought>"),  # Gemini through its OpenAI endpoint
    _Tags(r"<thinking>", r"</thinking>"),  # prompted chains of thought
    _Tags(r"<reasoning>", r"</reasoning>"),
    _Tags(r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A Reasoning
    _Tags(r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker, Sky-T1
    _Tags(r"◁think▷", r"◁/think▷"),  # Kimi-VL-Thinking
    _Tags(r"<\|channel>(?:thought(?:\n|\Z))?", r"<channel\|>"),  # Gemma 4
    # Granite 3.2
    _Tags(r"Here(?: is|'s) my thought process:", r"Here(?: is|'s) my response:"),
)
_OPENING = re.compile("|".join(f"({tags.opening})" for tags in _TAGS), re.IGNORECASE)
_CLOSING = [re.compile(tags.closing, re.IGNORECASE) for tags in _TAGS]
_PREFILLED = [
    (
        re.compile(tags.opening, re.IGNORECASE),
        re.compile(tags.closing, re.IGNORECASE),
        # Alone on its line; or glued to the text on both sides, which prose does not do.
        re.compile(
            rf"(?:^|(?<=\n))[ \t]*{tags.closing}[ \t]*(?=\n|\Z)"
            rf"|(?<![\s`'\"“‘(*]){tags.closing}(?![ \t`'\"”’)*.,;:!?])",
            re.IGNORECASE,
        ),
    )
    for tags in _TAGS
    if tags.is_prefilled
]
#: An opening tag at the end of a prompt, where the chat template has written it.
_PREFILL = re.compile(
    rf"({'|'.join(tags.opening for tags in _TAGS if tags.is_prefilled)})\s*\Z", re.IGNORECASE
)

# gpt-oss writes messages on channels (https://github.com/openai/harmony): ``analysis`` is thinking,
# ``final`` the answer, ``commentary`` a preamble to tool calls. Decoding without special tokens
# leaves the bare words.
_CHANNELS = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary|final)\b")
_CHANNEL = re.compile(
    r"<\|channel\|>(?P<channel>\w+)[^<]*(?:<\|constrain\|>\w+)?<\|message\|>(?P<text>.*?)"
    r"(?=<\|(?:end|return|call|start)\|>|\Z)",
    re.DOTALL,
)
_BARE_CHANNELS = re.compile(r"\s*analysis(?P<thinking>.*?)assistantfinal(?P<answer>.*)", re.DOTALL)


def split_thinking(text: str, *, closing_only: bool = True) -> tuple[str, str]:
    """Split a generated text into thinking and answer.

    Args:
        text: what the model generated.
        closing_only: whether a closing tag without an opening one may end the thinking.

    Returns: the thinking and the answer, without the tags and the white space around them. Without
    thinking, an empty string and the text as it is. A text that ends before its thinking does (the
    model was cut off) has an empty answer.
    """
    if (channels := _split_channels(text)) is not None:
        return channels
    thoughts: list[str] = []
    rest = text
    while (opened := _OPENING.match(rest.lstrip())) is not None:
        body = rest.lstrip()[opened.end() :]
        closed = _CLOSING[(opened.lastindex or 1) - 1].search(body)
        if closed is None:
            return _joined([*thoughts, body]), ""
        thoughts.append(body[: closed.start()])
        rest = body[closed.end() :]
    if closing_only:
        while (closed := _end_of_prefilled(rest)) is not None:
            thoughts.append(rest[: closed.start()])
            rest = rest[closed.end() :]
    if rest is text:
        return "", text
    return _joined(thoughts), rest.strip()


def prefilled_tag(prompt: str) -> str:
    """The opening tag with which a chat template ends a prompt; empty if it ends in another way."""
    found = _PREFILL.search(prompt)
    return found[1] if found else ""


#: Marks of thinking that are special tokens in some vocabularies, so that decoding leaves them out.
_SPECIAL = frozenset(
    {
        "<think>",
        "</think>",
        "<seed:think>",
        "</seed:think>",
        "<mm:think>",
        "</mm:think>",
        "[THINK]",
        "[/THINK]",
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        "◁think▷",
        "◁/think▷",
        "<|channel>",
        "<channel|>",
        "<|channel|>",
    }
)
#: Tokens at the end of a prompt that may be an opening tag with white space after it.
_PREFILL_TOKENS = 12
#: Special tokens around the channels of gpt-oss. Other models end their turns with some of them.
_CHANNEL_FRAME = frozenset({"<|start|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>"})


class ThinkingTokens:
    """The marks of thinking in the tokens that one model reads and writes.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", None) or {}
        special = {number: token.content for number, token in added.items() if token.special}
        is_on_channels = "<|channel|>" in special.values()
        marks = _SPECIAL | (_CHANNEL_FRAME if is_on_channels else frozenset())
        self._marks = {number: name for number, name in special.items() if name in marks}

    def opened(self, prompt: Sequence[int]) -> str:
        """The opening tag with which a prompt ends; empty if it ends in another way."""
        return prefilled_tag(self._tokenizer.decode(list(prompt[-_PREFILL_TOKENS:])))

    def text(self, tokens: Sequence[int]) -> str | None:
        """The text of generated tokens with the marks of thinking that are special tokens.

        None if there are none of these: the text is then the one without special tokens.
        """
        if not self._marks.keys() & set(tokens):
            return None
        pieces: list[str] = []
        run: list[int] = []
        for token in tokens:
            if token in self._marks:
                pieces += [self._decoded(run), self._marks[token]]
                run = []
            else:
                run.append(token)
        return "".join([*pieces, self._decoded(run)])

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)) if tokens else ""


def _split_channels(text: str) -> tuple[str, str] | None:
    """The thinking and the answer of a text on gpt-oss's channels; None for other texts."""
    if _CHANNELS.match(text):
        found = [(match["channel"], match["text"]) for match in _CHANNEL.finditer(text)]
        thinking = _joined(body for channel, body in found if channel != "final")
        return thinking, "".join(body for channel, body in found if channel == "final").strip()
    if bare := _BARE_CHANNELS.fullmatch(text):
        return bare["thinking"].strip(), bare["answer"].strip()
    return None


def _end_of_prefilled(text: str) -> re.Match[str] | None:
    """The closing tag that ends thinking whose opening tag is in the prompt; None without one."""
    for opening, closing, delimiter in _PREFILLED:
        if closing.match(text.lstrip()):
            return closing.search(text)
        found = delimiter.search(text)
        if found is None:
            continue
        before = text[: found.start()]
        if not opening.search(before) and before.count("```") % 2 == 0:
            return found
    return None


def _joined(thoughts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, (thought.strip() for thought in thoughts)))
