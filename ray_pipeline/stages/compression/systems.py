"""The ways to shorten a prompt that an evaluation compares, and their texts for its prompts."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray_pipeline.stages.compression.deletion import CountTokens, Prompt

#: What the run's data are: `compressed_prompt`; and the run's own trained model.
GENERATED, TRAINED = "generated", "trained"
#: Floors and the prompt itself, which are matched to nothing.
ORIGINAL, EMPTY, OTHER = "original", "empty prompt", "another row's prompt"
#: Baselines, which are matched to another system's tokens row by row, or to a rate.
RULES, FIRST, RANDOM, SURPRISE = "rules", "first words", "random words", "surprising words"
BASELINES = (RULES, FIRST, RANDOM, SURPRISE)


@dataclass(frozen=True)
class System:
    """One way to shorten, and what it made of each prompt.

    Attributes:
        name: of the way.
        matched: whose tokens it is matched to row by row, or ``rate 0.5``; empty: to nothing.
        draws: its texts, one list for each draw; more than one where chance has a part.
    """

    name: str
    matched: str
    draws: Sequence[Sequence[str]]

    @property
    def texts(self) -> Sequence[str]:
        """The texts of the first draw."""
        return self.draws[0]


class AtLengths(Protocol):
    """Shortens prompts to given numbers of tokens, as `trained.TrainedCompressor.at_lengths`."""

    def __call__(
        self, prompts: Sequence[str], max_tokens: Sequence[int], count: CountTokens
    ) -> list[str]:
        """The prompts with at most these tokens."""


@dataclass(frozen=True)
class Baselines:
    """Makes the baselines of prompts for any lengths.

    Attributes:
        prompts: the originals.
        count: tokens of a text.
        surprise: how surprising each word of each prompt is; None: that baseline is left out.
        patterns: what must stay besides protected words.
        draws: number of random draws.
        seed: of the draws.
    """

    prompts: Sequence[str]
    count: CountTokens
    surprise: Sequence[Sequence[float]] | None
    patterns: Sequence[re.Pattern[str]]
    draws: int
    seed: int
    _made: list[Prompt] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the words of each prompt once."""
        self._made.extend(Prompt(text, self.patterns) for text in self.prompts)

    def matched(self, max_tokens: Sequence[int], to: str) -> list[System]:
        """The baselines, each prompt cut to at most its number of tokens.

        Protected words stay: a baseline may remain longer, which its own ratio shows.
        """

        def cut(order_of: Any) -> list[str]:
            return [
                prompt.shortened(order_of(number, prompt), most, self.count)
                for number, (prompt, most) in enumerate(zip(self._made, max_tokens, strict=True))
            ]

        def drawn(draw: int) -> list[str]:
            return cut(lambda _, prompt: prompt.random_order(self.seed, draw))

        found = [
            System(RULES, to, [cut(lambda _, prompt: prompt.rule_order())]),
            System(FIRST, to, [cut(lambda _, prompt: prompt.from_the_end())]),
            System(RANDOM, to, [drawn(draw) for draw in range(self.draws)]),
        ]
        if (scores := self.surprise) is not None:
            texts = cut(lambda number, prompt: prompt.least_first(scores[number]))
            found.append(System(SURPRISE, to, [texts]))
        return found

    def by_rule(self) -> list[System]:
        """Deletions by rule as they are: of articles alone, and of articles and filler."""
        articles = [prompt.by_rule("articles") for prompt in self._made]
        both = [prompt.by_rule("articles", "filler") for prompt in self._made]
        return [
            System("articles dropped", "", [articles]),
            System("articles and filler dropped", "", [both]),
        ]

    def limits(self, rate: float) -> list[int]:
        """The tokens of each prompt at a rate, rounded, and at least 1."""
        return [max(1, round(rate * self.count(text))) for text in self.prompts]


def floors(prompts: Sequence[str], families: Sequence[str], seed: int) -> list[System]:
    """The prompt itself, no prompt, and the prompt of another row that is of another family."""
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    others = [""] * len(prompts)
    for place, row in enumerate(order):
        following = (order[(place + step) % len(order)] for step in range(1, len(order)))
        other = next((one for one in following if families[one] != families[row]), None)
        others[row] = "" if other is None else prompts[other]
    return [
        System(ORIGINAL, "", [list(prompts)]),
        System(EMPTY, "", [[""] * len(prompts)]),
        System(OTHER, "", [others]),
    ]


def cited_passage(prompt: str) -> bool:
    """Whether a prompt speaks of a passage that it does not hold.

    Dolly's closed questions refer to a context that is not in the instruction.
    """
    return bool(_PASSAGE.search(prompt)) and len(prompt) < _WITHOUT_PASSAGE


_WITHOUT_PASSAGE = 400
_THING = r"(?:passage|paragraph|text|context|article|excerpt|document|snippet)s?"
_PASSAGE = re.compile(
    r"\b(?:this|these|above|below|following|given|provided|reference|input|attached)\s+"
    rf"(?:\w+\s+){{0,2}}{_THING}\b"
    rf"|\bthe\s+{_THING}\b(?!\s+(?:of|editor|message|file|about)\b)"
    rf"|\b{_THING}\s+(?:above|below|provided|given|about)\b"
    r"|\b(?:information|summary|description|story|details)\s+(?:above|below|provided|given)\b"
    r"|\b(?:given|following|provided|above)\s+(?:information|summary|description|story)\b"
    rf"|\b(?:from|based on|according to|using)\s+(?:a|an|the)\s+{_THING}\b",
    re.IGNORECASE,
)


def names(systems: Sequence[System]) -> Mapping[tuple[str, str], System]:
    """Systems by name and by what they are matched to."""
    return {(system.name, system.matched): system for system in systems}
