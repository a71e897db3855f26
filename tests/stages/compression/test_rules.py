from __future__ import annotations

import pytest

from ray_pipeline.stages.compression.deletion import Prompt


@pytest.mark.parametrize(
    ("text", "articles", "filler", "stop_words"),
    [
        (
            "Can you please give me a list of the largest cities?",
            "Can you please give me list of largest cities?",
            "give list of largest cities?",
            "give list largest cities?",
        ),
        (
            "What is the capital of France?",
            "What is capital of France?",
            "What is capital of France?",
            "What capital France?",
        ),
        (
            "Which of these is a fish? Tope or Rope",
            "Which of these is fish? Tope or Rope",
            "Which of these is fish? Tope or Rope",
            "Which of these fish? Tope or Rope",
        ),
        ("Tell me if it rains", "Tell me if it rains", "Tell if it rains", "Tell if it rains"),
        ("Tell me why cats purr", *["Tell me why cats purr", "why cats purr", "why cats purr"]),
        ("Where can you find it?", *["Where can you find it?"] * 3),
        (
            "Can a wire give me a shock?",
            *["Can wire give me shock?"] * 2,
            "Can wire give me shock?",
        ),
        ("Can you tell if it rains?", *["Can you tell if it rains?"] * 3),
        ("What is a tide?", *["What is tide?"] * 3),
        (
            "What is there to do in Ohio?",
            *["What is there to do in Ohio?"] * 2,
            "What to do in Ohio?",
        ),
        ("Can you swim?", "Can you swim?", "Can you swim?", "Can you swim?"),
        ("Is vitamin A good?", *["Is vitamin A good?"] * 3),
        ("What kind of tree is an oak", *["What kind of tree is oak"] * 2, "What kind of tree oak"),
    ],
)
def test_rules_delete_their_words(text: str, articles: str, filler: str, stop_words: str) -> None:
    prompt = Prompt(text)
    assert prompt.by_rule("articles") == articles
    assert prompt.by_rule("articles", "filler") == filler
    assert prompt.by_rule("articles", "filler", "stop_words") == stop_words
