"""Texts of reasoning models, and texts that only mention their tags."""

from __future__ import annotations

from hypothesis import strategies as st

#: Pairs of tags around thinking at the beginning of a text.
TAGS = [
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
    ("<thought>", "</thought>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought\n", "<channel|>"),
]
_WORDS = ["the", "tag", "a", "Paris.", "\n", "\n\n", " ", "```", "`", '"', "é", "1"]
_OPENING = [opening for opening, _ in TAGS]
#: Closing tags as prose writes them.
_MENTIONED = [f" {closing} " for _, closing in TAGS] + [f"`{closing}`" for _, closing in TAGS]


@st.composite
def texts_without_leading_thinking(draw: st.DrawFn) -> str:
    """A text that begins with a word and may mention any tag, as prose does, after it."""
    first = draw(st.sampled_from(["The", "Écris", "1.", "`<think>`", "- "]))
    pieces = draw(st.lists(st.sampled_from([*_WORDS, *_OPENING, *_MENTIONED]), max_size=12))
    # A mention at the end of a line has a word after it: alone on a line a tag is a mark.
    return first + "".join(f"{piece}x" if piece in _MENTIONED else piece for piece in pieces)
