"""From questions to a model's prompts, and from its tokens to answers.

Shared by all that generates (transformers, vLLM), so that each gives a model the same prompts and
reads its tokens in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_pipeline.models.text import TextConfig, Tokeniser, text_config

#: The question itself: for models without a recorded format and without a chat template.
AS_IS = TextConfig(style="plain", prompt="{question}", answer="{answer}")


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: tokens of an answer at most, its end token included.
        temperature: 0: greedy, the most likely token; above 0: tokens are sampled.
        seed: of the sampling.
        top_p: tokens are sampled from the most likely ones that together have this probability.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Generated:
    """An answer.

    Attributes:
        text: without end tokens, and without white space around it.
        tokens: number of tokens that the model generated, the end token included.
        ended: whether the model ended the answer, rather than the limit of tokens.
    """

    text: str
    tokens: int
    ended: bool


class ModelText:
    """Prompts and answers of one model.

    Args:
        tokenizer: of transformers.
        text: the format of the model's training.
        ends: further tokens that end an answer, from the model's generation configuration.

    Raises:
        UserError: the tokenizer lacks what the format needs.
    """

    def __init__(
        self, tokenizer: Any, text: TextConfig | None = None, ends: Iterable[int] = ()
    ) -> None:
        self.tokeniser = Tokeniser(tokenizer, text)
        #: Tokens after which an answer is complete.
        self.ends = frozenset(ends) | self.tokeniser.ends()
        #: Pads shorter prompts; padding is masked, so any token will do.
        self.pad = int(tokenizer.eos_token_id)
        self._before, _, self._after = _parts(self.tokeniser)

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """The tokens of each question's prompt, as in training."""
        return self.tokeniser.prompt_ids(
            [self.tokeniser.prompt(question) for question in questions]
        )

    def answer(self, tokens: Sequence[int]) -> Generated:
        """The answer in a model's tokens; tokens after its end are ignored."""
        end = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        kept = list(tokens if end is None else tokens[:end])
        text = self.tokeniser.tokenizer.decode(kept, skip_special_tokens=True).strip()
        text = text.removeprefix(self._before).removesuffix(self._after).strip()
        return Generated(text, len(kept) + (end is not None), end is not None)


def _parts(tokeniser: Tokeniser) -> tuple[str, str, str]:
    """The text that training put before and after an answer, and the mark between them."""
    if tokeniser.chat:
        return "", "", ""
    before, mark, after = tokeniser.config.answer.format(answer="\0").partition("\0")
    return before.strip(), mark, after.strip()


def own_ends(generation_config: Any) -> list[int]:
    """The tokens that a model's generation configuration names as ends."""
    ends = generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def trained_format(folder: str | Path, tokenizer: Any) -> TextConfig:
    """The prompt format of a model: that of its training, else its chat template, else `AS_IS`."""
    recorded = text_config(folder)
    if recorded is not None:
        return recorded
    return TextConfig(style="chat") if getattr(tokenizer, "chat_template", None) else AS_IS
