"""The number of tokens of a text under a named tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.stage import Stage


class TokenCounter:
    """Counts the tokens of texts, without special tokens; text that spells one is text.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._count = lru_cache(maxsize=20_000)(self._counted)

    def __call__(self, text: str) -> int:
        """The number of tokens."""
        return self._count(text)

    def _counted(self, text: str) -> int:
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return len(encoded["input_ids"])


@lru_cache(maxsize=4)
def token_counter(folder: str) -> TokenCounter:
    """The counter for the tokenizer of a folder or hub id; loaded once in a process."""
    return TokenCounter(load_tokenizer(folder))


class CountsTokens(Stage):
    """Base of the stages that count tokens with the tokenizer that `MeasurePrompts` names."""

    @property
    def models(self) -> Mapping[str, str]:
        """The tokenizer that tokens are counted with."""
        return {"tokenizer": self.tokenizer}

    @property
    def tokenizer(self) -> str:
        """Name of the tokenizer, as configured."""
        raise NotImplementedError

    @property
    def count(self) -> TokenCounter:
        """The number of tokens of a text."""
        return token_counter(self.model("tokenizer"))
