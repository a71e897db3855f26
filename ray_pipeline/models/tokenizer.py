"""A model's tokenizer: how it is loaded, and what identifies its vocabulary."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from ray_pipeline.core.errors import UserError, first_line


def load_tokenizer(model: str, **options: Any) -> Any:
    """A model's tokenizer.

    Args:
        model: local folder or hub id.
        options: further arguments of ``AutoTokenizer.from_pretrained``.

    Raises:
        UserError: there is no tokenizer that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the tokenizer of {model} cannot be loaded: {first_line(error)}. Save it beside the "
            "model: tokenizer.save_pretrained(folder)"
        ) from None


def vocabulary_size(tokenizer: Any) -> int:
    """The largest token id, plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_hash(tokenizer: Any) -> str:
    """Identity of a tokenizer's vocabulary: which id stands for which token."""
    entries = sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
    return hashlib.blake2b(orjson.dumps(entries), digest_size=16).hexdigest()
