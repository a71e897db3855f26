"""Models that were trained without a chat template, as engines that speak in chats can ask them.

A model that this project trained has a note in its folder of how questions became prompts. In the
plain style that is text around the question. Engines know messages only, so the tokenizer of such a
model gets a template that writes the same text around them: what reaches the model is what it was
trained on, token for token.
"""

from __future__ import annotations

import json
from typing import Any

from ray_pipeline.models.text import TextConfig, Tokeniser, text_config


def use_trained_format(tokenizer: Any, model: str) -> None:
    """Give a tokenizer the prompts of its model's training, where that was in the plain style.

    Args:
        tokenizer: of the model; its chat template is replaced.
        model: folder or hub id. One without a note is left as it is.
    """
    text = text_config(model)
    if text is not None and not Tokeniser(tokenizer, text).chat:
        tokenizer.chat_template = plain_template(tokenizer, text)


def plain_template(tokenizer: Any, text: TextConfig) -> str:
    """A chat template (Jinja) whose user turn is the plain style's prompt, its answer the answer.

    Args:
        tokenizer: what it puts before every text is written out, because a chat's tokens get
            nothing added.
        text: of the plain style. A system message, which it does not know, is a line before it.
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
    """A pattern of the text's format, its field the message."""
    pieces = pattern.format(**{name: "\0"}).split("\0")
    return "{{ m.content }}".join(_literal(piece) for piece in pieces)


def _literal(text: str) -> str:
    """A text as Jinja writes it, whatever signs of Jinja's are in it."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _beginning(tokenizer: Any) -> str:
    """What a tokenizer puts before every text that is no chat, as text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    beginning: str = tokenizer.decode(whole[:first])
    return beginning
