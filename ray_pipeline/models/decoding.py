"""A model's texts: questions to the prompts of its training, and what it writes back to answers.

Whatever generates (transformers, vLLM), what it is given and what its tokens mean is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_pipeline.models.text import TextConfig, Tokeniser, text_config

#: The question itself, for models of which nobody wrote down what they were trained on.
AS_IS = TextConfig(style="plain", prompt="{question}", answer="{answer}")


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: of an answer, the token that ends it among them.
        temperature: 0 takes the likeliest token (greedy); above, tokens are drawn.
        seed: of the drawing.
        top_p: tokens are drawn from the likeliest ones that have this share together.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Generated:
    """An answer.

    Attributes:
        text: without what ends it, and without white space around it.
        tokens: that the model made for it, the one that ends it among them.
        ended: whether the model ended it, rather than the limit of tokens.
    """

    text: str
    tokens: int
    ended: bool


class ModelText:
    """Prompts and answers of one model.

    Args:
        tokenizer: of transformers.
        text: the format of the model's training.
        ends: further tokens that end an answer: those that the model's own configuration names.

    Raises:
        UserError: the tokenizer lacks what the format needs.
    """

    def __init__(
        self, tokenizer: Any, text: TextConfig | None = None, ends: Iterable[int] = ()
    ) -> None:
        self.tokeniser = Tokeniser(tokenizer, text)
        #: Tokens after which an answer is complete.
        self.ends = frozenset(ends) | self.tokeniser.ends()
        #: Fills shorter prompts up; it is masked, so any token does.
        self.pad = int(tokenizer.eos_token_id)
        self._before, _, self._after = _parts(self.tokeniser)

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """The tokens of each question's prompt, as in training."""
        return self.tokeniser.prompt_ids([self.tokeniser.prompt(one) for one in questions])

    def answer(self, tokens: Sequence[int]) -> Generated:
        """The answer in the tokens that a model made; what comes after its end is ignored."""
        end = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        kept = list(tokens if end is None else tokens[:end])
        text = self.tokeniser.tokenizer.decode(kept, skip_special_tokens=True).strip()
        text = text.removeprefix(self._before).removesuffix(self._after).strip()
        return Generated(text, len(kept) + (end is not None), end is not None)


def _parts(tokeniser: Tokeniser) -> tuple[str, str, str]:
    """What training put before and after an answer, and the mark between."""
    if tokeniser.chat:
        return "", "", ""
    before, mark, after = tokeniser.config.answer.format(answer="\0").partition("\0")
    return before.strip(), mark, after.strip()


def own_ends(generation_config: Any) -> list[int]:
    """The tokens that a model's generation configuration names as ends."""
    ends = generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def trained_format(folder: str | Path, tokenizer: Any) -> TextConfig:
    """How a model is asked: as in its training; else by its chat template; else as it is."""
    recorded = text_config(folder)
    if recorded is not None:
        return recorded
    return TextConfig(style="chat") if getattr(tokenizer, "chat_template", None) else AS_IS
