"""Chat templates for models that were trained without one, for engines that take messages only.

A model that this project trained has a file in its folder that says how questions became prompts.
In the plain style that is text around the question. The tokenizer of such a model gets a chat
template that writes the same text around messages, so that the model is given the prompts that it
was trained on, token for token.
"""

from __future__ import annotations

import json
from typing import Any

from ray_pipeline.models.text import TextConfig, Tokeniser, text_config


def use_trained_format(tokenizer: Any, model: str) -> None:
    """Give a tokenizer the prompt format of its model's training, if that is in the plain style.

    Args:
        tokenizer: of the model; its chat template is replaced.
        model: folder or hub id. The tokenizer is unchanged if the folder has no recorded format.
    """
    text = text_config(model)
    if text is not None and not Tokeniser(tokenizer, text).chat:
        tokenizer.chat_template = plain_template(tokenizer, text)


def plain_template(tokenizer: Any, text: TextConfig) -> str:
    """A chat template (Jinja) that renders messages as the plain style's prompt and answer.

    Args:
        tokenizer: the tokens that it puts before every text are written out, because nothing is
            added to a chat's tokens.
        text: a format in the plain style. It has no system message: one becomes a line before the
            prompt.
    """
    end = _literal(tokenizer.eos_token)
    user = _around(text.prompt, "question")
    answer = _around(text.answer, "answer")
    return (
        f"{_literal(_beginning(tokenizer))}{{% for m in messages %}}"
        f"{{% if m.role == 'user' %}}{user}"
        f"{{% elif m.role == 'assistant' %}}{answer}{end}"
        '{% else %}{{ m.content }}{{ "\\n" }}{% endif %}{% endfor %}'
    )


def _around(pattern: str, name: str) -> str:
    """A pattern of the format as a template, with the message in place of its field."""
    pieces = pattern.format(**{name: "\0"}).split("\0")
    return "{{ m.content }}".join(_literal(piece) for piece in pieces)


def _literal(text: str) -> str:
    """A template that renders as the text, even if that contains Jinja syntax."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _beginning(tokenizer: Any) -> str:
    """The text that a tokenizer puts before every text outside chats."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    beginning: str = tokenizer.decode(whole[:first])
    return beginning
