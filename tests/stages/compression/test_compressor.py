"""Prompts are shortened outside of a run: how far, what stays, and what bad arguments get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import tiny_labeller, tiny_model, tiny_seq2seq, word_tokenizer

from ray_pipeline import UserError, compress
from ray_pipeline.stages.compression.trained import COMPRESSOR_FILE, Method

TEXT = "Can you please tell me what the capital of the country of France is?"


def test_rules_go_as_far_as_is_asked_for() -> None:
    texts = [compress([TEXT], rate=rate)[0].text for rate in (None, 0.8, 0.6, 0.4)]
    assert texts == [
        "what capital of country of France is?",
        "what the capital of the country of France is?",
        "what capital of country of France is?",
        "what capital country France is?",
    ]
    (short,) = compress([TEXT], target_tokens=2)
    assert (short.tokens, short.note) == (6, "6 tokens, asked for 2: the other words must stay")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "every word must stay"),
        ("😀 🎉", "every word must stay"),
        ("Purr", "nothing can be left out"),
        ('{"the key": ["the value", {"a": "the"}]}', "every word must stay"),
        ("```\nthe code is the code\n```", "every word must stay"),
        ("Не надо", "nothing can be left out"),
    ],
)
def test_a_prompt_of_which_nothing_can_be_saved_comes_back_marked(text: str, note: str) -> None:
    (short,) = compress([text])
    assert (short.text, short.note, short.is_unchanged) == (text, note, True)
    assert short.tokens == short.original_tokens


def test_json_and_markdown_stay_valid() -> None:
    value = {"the": ["a cat", 1.5, None], "is": "of the"}
    text = "Please read the following:\n" + json.dumps(value, indent=1) + "\nIs the cat there?"
    (short,) = compress([text], rate=0.1)
    assert json.loads(short.text[short.text.index("{") : short.text.rindex("}") + 1]) == value
    page = (
        "# The title\n\nThe text is the text of\n\n- the item\n  1. the inner\n\n"
        "| the | a |\n| - | - |\n\n    the code\n\n[the link](http://a.b/the) is the end\n"
    )
    (short,) = compress([page], rate=0.1)
    assert short.text == (
        "# title\n\ntext text\n\n- item\n  1. inner\n\n"
        "| the | a |\n| - | - |\n\n    the code\n\n[the link](http://a.b/the) end\n"
    )


def test_a_word_that_would_begin_a_line_as_markup_does_not_get_there() -> None:
    (short,) = compress(["The - sign of the sum\nplease # the heading"], rate=0.1)
    assert short.text.splitlines()[0].startswith("The - ")
    assert short.text.splitlines()[1].startswith("please # ")


def test_a_models_least_surprising_words_go_first(tmp_path: Path) -> None:
    tiny_model("gpt2", seed=3).float().save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    text = "what is the capital of a b c d e f question"
    folder = str(tmp_path)
    half, third = (
        compress([text, ""], "surprise", rate=rate, model=folder, tokenizer=folder)
        for rate in (0.5, 0.25)
    )
    assert (half[0].tokens, third[0].tokens) == (6, 3)
    assert set(third[0].text.split()) < set(half[0].text.split()) < set(text.split())
    assert half[1].text == ""
    (same,) = compress([text], "surprise", threshold=-1, model=folder, tokenizer=folder)
    assert same.is_unchanged


def test_a_users_patterns_stay() -> None:
    (short,) = compress(["Tell me the truth of the matter"], protect=["the truth of"])
    assert short.text == "Tell the truth of matter"


def test_a_prompt_of_twenty_thousand_words_is_shortened() -> None:
    (short,) = compress(["the word " * 20_000], rate=0.9)
    assert short.text.split() == ["word"] * 20_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate: 0 is not above 0"),
        ({"rate": float("nan")}, "rate: nan"),
        ({"target_tokens": 0}, "target tokens: 0"),
        ({"threshold": 1.0}, "only the method surprise"),
        ({"method": "trained"}, "needs a model"),
        ({"protect": ["("]}, "is no regular expression"),
        ({"method": "surprise"}, "needs a rate"),
        ({"method": "surprise", "threshold": 1.0, "rate": 0.5}, "without rate"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compress([TEXT], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["keep_or_drop", "seq2seq"])
def test_a_trained_model_is_used_and_its_faults_bring_the_prompt_back(
    tmp_path: Path, form: str
) -> None:
    model = tiny_labeller() if form == "keep_or_drop" else tiny_seq2seq()
    folder = tmp_path / "compressor"
    model.float().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    (folder / COMPRESSOR_FILE).write_text(Method(form, max_new_tokens=4).to_json())  # type: ignore[arg-type]
    text = "what is the capital of a b c d e f question"
    options: dict[str, Any] = {"method": "trained", "model": str(folder)}
    options |= {"tokenizer": str(folder)}
    if form == "keep_or_drop":
        (short, empty) = compress([text, ""], rate=0.5, **options)
        assert short.tokens == 6
        assert set(short.text.split()) < set(text.split())
        assert empty.is_unchanged
    else:
        (short,) = compress([text], **options)  # random weights write nothing of use
        assert short.is_unchanged and str(short.note).startswith("not used: ")
        with pytest.raises(UserError, match="keeps or drops"):
            compress([text], rate=0.5, **options)
