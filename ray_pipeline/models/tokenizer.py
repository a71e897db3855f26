"""A model's tokenizer: how it is loaded, and what identifies its vocabulary."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from ray_pipeline.core.errors import UserError, first_line
from ray_pipeline.models.hub import at_commit


def load_tokenizer(model: str, **options: Any) -> Any:
    """A model's tokenizer.

    Args:
        model: local folder or hub id, with or without a commit.
        options: further arguments of ``AutoTokenizer.from_pretrained``.

    Raises:
        UserError: there is no tokenizer that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        name, commit = at_commit(model)
        return AutoTokenizer.from_pretrained(name, **options | commit)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the tokenizer of {model} cannot be loaded: {first_line(error)}. Save it beside the "
            "model: tokenizer.save_pretrained(folder)"
        ) from None


def vocabulary_size(tokenizer: Any) -> int:
    """The largest token id, plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def check_vocabulary(model: str, logits: int, tokens: int, fix: str) -> None:
    """Check that a model has a logit for each token of its tokenizer.

    Args:
        model: what it is, such as ``student``, for the message.
        logits: logits of a position.
        tokens: see `vocabulary_size`.
        fix: how to fix it, for the message.

    Raises:
        UserError: it has fewer.
    """
    if logits < tokens:
        raise UserError(f"the {model} has {logits} logits and the tokenizer {tokens} tokens: {fix}")


def tokenizer_hash(tokenizer: Any) -> str:
    """Identity of a tokenizer's vocabulary: which id stands for which token."""
    entries = sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
    return hashlib.blake2b(orjson.dumps(entries), digest_size=16).hexdigest()
