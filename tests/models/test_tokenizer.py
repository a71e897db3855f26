"""Tokenizers: loaded in one way, and known by their vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_models import word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.tokenizer import load_tokenizer, tokenizer_hash, vocabulary_size


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"tokenizer of {tmp_path} cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_options_reach_the_tokenizer(tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path), padding_side="left").padding_side == "left"


def test_the_tokenizers_identity_is_its_vocabulary() -> None:
    plain, chat = word_tokenizer(), word_tokenizer(chat=True)
    assert tokenizer_hash(plain) == tokenizer_hash(chat)
    chat.add_tokens(["new"])
    assert tokenizer_hash(plain) != tokenizer_hash(chat)
    assert vocabulary_size(chat) == vocabulary_size(plain) + 1
