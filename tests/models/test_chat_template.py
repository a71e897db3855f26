"""Engines that speak in chats ask a model as it was trained, token for token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import CHAT, qa_table, word_tokenizer
from tokenizers import processors

from ray_pipeline.models.chat_template import use_trained_format
from ray_pipeline.models.text import TEXT_FILE, TextConfig, Tokeniser

# Braces are doubled, as `str.format` wants them: the text has Jinja's own signs in it.
ODD = '{{{{ "what" }}}} {question} {{% is %}} \\n "the" 😀 :'
PLAIN = [
    TextConfig(),
    TextConfig(style="plain", prompt=ODD, answer="{answer}."),
    TextConfig(style="plain", prompt="{question} of {question}\n", answer=" the {answer}"),
]


def with_beginning() -> Any:
    """A tokenizer that begins every text with a token of its own, as Llama's does."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    assert tokenizer("a")["input_ids"][0] == 2
    return tokenizer


def noted(folder: Path, text: TextConfig) -> str:
    (folder / TEXT_FILE).write_text(text.model_dump_json())
    return str(folder)


@pytest.mark.parametrize("text", PLAIN)
@pytest.mark.parametrize("beginning", [False, True])
def test_a_plain_models_chat_is_its_training_text(
    tmp_path: Path, text: TextConfig, beginning: bool
) -> None:
    tokenizer = with_beginning() if beginning else word_tokenizer()
    trained = Tokeniser(tokenizer, text)
    (prompt,) = trained.prompt_ids([trained.prompt("what is a ?")])
    (row,) = trained(qa_table(["what is a ?"], ["b c"])).to_pylist()

    use_trained_format(tokenizer, noted(tmp_path, text))
    turns = [{"role": "user", "content": "what is a ?"}]
    asked = {"tokenize": True, "return_dict": False}
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True, **asked) == prompt
    turns.append({"role": "assistant", "content": "b c"})
    assert tokenizer.apply_chat_template(turns, **asked) == row["input_ids"]


def test_a_plain_model_with_a_template_of_its_maker_is_asked_in_plain(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(chat=True)
    use_trained_format(tokenizer, noted(tmp_path, TextConfig(style="plain")))
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert asked == "Question: a\nAnswer:"


def test_other_models_keep_their_template(tmp_path: Path) -> None:
    for chat in (True, False):
        tokenizer = word_tokenizer(chat)
        use_trained_format(tokenizer, str(tmp_path))
        assert tokenizer.chat_template == (CHAT if chat else None)
    tokenizer = word_tokenizer(chat=True)
    use_trained_format(tokenizer, noted(tmp_path, TextConfig()))
    assert tokenizer.chat_template == CHAT
