"""Shortening a text to a number of tokens by deleting whole words in a given order.

All baselines and extractive compressors are such orders: at random, from the end, least surprising
first, by rule. So they can be compared at the same length, with the same protected words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import xxhash

from ray_pipeline.stages.compression.protected import protected_words
from ray_pipeline.stages.compression.rules import Rule, deletable
from ray_pipeline.stages.compression.words import Word, without, words_of

#: Number of tokens of a text.
CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Prompt:
    """A text with its words, and those of them that must stay.

    Args:
        text: the text.
        patterns: what must stay besides what `protected` finds by itself.
    """

    text: str
    patterns: Sequence[re.Pattern[str]] = ()
    _made: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def words(self) -> list[Word]:
        """Its words."""
        return words_of(self.text)

    @cached_property
    def protected(self) -> set[int]:
        """Places of the words that must stay."""
        return protected_words(self.text, self.words, self.patterns)

    @property
    def free(self) -> list[int]:
        """Places of the words that may be deleted, in order."""
        return [place for place in range(len(self.words)) if place not in self.protected]

    def by_rule(self, *rules: Rule) -> str:
        """The text without the words that rules delete; the text itself if there are none."""
        return self.deleted(deletable(rules, self.words, self.protected))

    def deleted(self, places: Sequence[int]) -> str:
        """The text without some words; the text itself where no word would be left."""
        text = without(self.text, self.words, places)
        return text if text.strip() else self.text

    def shortened(self, order: Sequence[int], max_tokens: int, count: CountTokens) -> str:
        """The text without the first words of an order: as many as `max_tokens` takes.

        The longest such text with at most `max_tokens`; without all words of the order where that
        is not enough. It never has more tokens than the text.

        Args:
            order: places of words, the first to go first; protected ones are passed over.
            max_tokens: tokens that the result should have at most.
            count: the tokens of a text.
        """
        order = [place for place in order if place not in self.protected]
        low, high = 0, len(order)  # fewest deletions that reach the limit, by bisection
        while low < high:
            middle = (low + high) // 2
            if count(self.deleted(order[:middle])) <= max_tokens:
                high = middle
            else:
                low = middle + 1
        text = self.deleted(order[:low])
        # Deleting a word can add a token where the words around it meet.
        return text if count(text) <= count(self.text) else self.text

    def random_order(self, seed: int, draw: int) -> list[int]:
        """The free words in an order that depends on the text, a seed and the draw's number."""
        order = self.free
        key = xxhash.xxh3_64_intdigest(f"{seed}:{draw}:{self.text}".encode())
        random.Random(key).shuffle(order)
        return order

    def from_the_end(self) -> list[int]:
        """The free words from the last to the first: what is left begins as the text does."""
        return self.free[::-1]

    def least_first(self, scores: Sequence[float]) -> list[int]:
        """The free words from the lowest score to the highest; of equal ones the last first."""
        return sorted(self.free, key=lambda place: (scores[place], -place))

    def rule_order(self) -> list[int]:
        """Articles, then filler, then stop words; other words are not in it."""
        order: dict[int, None] = {}
        for rule in ("articles", "filler", "stop_words"):
            order |= dict.fromkeys(deletable([rule], self.words, self.protected))
        return list(order)
