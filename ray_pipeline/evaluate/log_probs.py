"""The log-probability of given texts under a causal language model, token by token.

What needs to know how likely a model finds a text uses this: choosing between candidates, the loss
of a reference answer after a changed prompt, the words of a prompt that a model finds surprising.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ray_pipeline.evaluate.model import answer_token_losses
from ray_pipeline.models.control_tokens import ControlTokens
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.forward import AnswerModel

#: The prompt itself and what follows it, with nothing between them.
_PLAIN = TextConfig(style="plain", prompt="{question}", answer="{answer}")


@dataclass(frozen=True)
class TextLogProbs:
    """The log-probabilities of one text's tokens.

    Attributes:
        ids: the tokens that were scored.
        log_probs: the natural log-probability of each, given all before it; NaN for a first token
            that nothing precedes.
        spans: where each token stands in the text, (first character, character after the last);
            empty for tokens that were not cut from a text alone (see `TextScorer.texts`).
        cut: number of tokens at the end that were not scored, because the model takes no more.
    """

    ids: tuple[int, ...]
    log_probs: npt.NDArray[np.float64]
    spans: tuple[tuple[int, int], ...] = field(default=())
    cut: int = 0

    @property
    def total(self) -> float:
        """The text's log-probability: the sum over its tokens. NaN if a token was not scored."""
        return math.nan if self.cut else float(self.log_probs.sum())

    @property
    def mean(self) -> float:
        """The mean over the tokens that were scored; NaN if there is none."""
        return float(self.log_probs.mean()) if len(self.log_probs) else math.nan


class TextScorer:
    """A causal language model that says how likely given texts are.

    Texts are sorted by length and batched; the result of a text does not depend on the others, up
    to rounding. Text that spells a control token is text.

    Args:
        model: of transformers, on its device; it is set to evaluation.
        tokenizer: its tokenizer.
        text: the prompt format for `answers`; None: the chat template, or without one the prompt
            as it is.
        batch_tokens: tokens of a forward pass, padding included.

    Raises:
        UserError: the tokenizer lacks what the format needs.
    """

    def __init__(
        self, model: Any, tokenizer: Any, text: TextConfig | None = None, batch_tokens: int = 4096
    ) -> None:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        self.tokenizer = tokenizer
        self._model = AnswerModel(model.eval())
        self._chat = Tokeniser(tokenizer, text or (TextConfig() if has_template else _PLAIN))
        self._plain = Tokeniser(tokenizer, _PLAIN)
        self._control = ControlTokens(tokenizer)
        self._batch_tokens = batch_tokens
        start = tokenizer.bos_token_id
        #: Precedes a text that stands alone.
        self.start = tokenizer.eos_token_id if start is None else start
        #: Tokens of a prompt and what follows it, at most; None: no limit.
        self.positions: int | None = getattr(model.config, "max_position_embeddings", None)

    @classmethod
    def load(cls, folder: str, device: str = "cpu", batch_tokens: int = 4096) -> TextScorer:
        """The model of a folder or hub id in float32, in the prompt format of its training.

        Raises:
            UserError: there is no such model, or it has no tokenizer.
        """
        from ray_pipeline.models.decoding import trained_format
        from ray_pipeline.models.tokenizer import load_tokenizer
        from ray_pipeline.train.student import load

        tokenizer = load_tokenizer(folder)
        model = load(folder, torch.float32).to(device)
        return cls(model, tokenizer, trained_format(folder, tokenizer), batch_tokens)

    def answers(
        self, questions: Sequence[str], answers: Sequence[str], end: bool = True
    ) -> list[TextLogProbs]:
        """Answers given questions, in the prompt format.

        Args:
            questions: any text; an empty one is a prompt without a question.
            answers: one each, not empty.
            end: score the token that ends the answer, too. Without it, as for an answer that was
                cut, only the text is scored.
        """
        return self._after(self._chat, questions, answers, end)

    def completions(
        self, prompts: Sequence[str], completions: Sequence[str], end: bool = False
    ) -> list[TextLogProbs]:
        """Texts given the text just before them, without a chat template and white space kept.

        Args:
            prompts: any text. After an empty one, a completion follows the start token.
            completions: one each, not empty.
            end: score the end of text after each, too.
        """
        return self._after(self._plain, prompts, completions, end)

    def texts(self, texts: Sequence[str]) -> list[TextLogProbs]:
        """Texts alone, with the place of each token in its text.

        The first token follows the tokenizer's beginning of text; a tokenizer without one gives
        its end of text.

        Args:
            texts: each not empty.
        """
        pairs, spans = [], []
        for text in texts:
            ids, of_text = self._spanned(text)
            pairs.append(([self.start], ids))
            spans.append(of_text)
        return [
            TextLogProbs(made.ids, made.log_probs, tuple(of_text[: len(made.ids)]), made.cut)
            for made, of_text in zip(self.tokens(pairs), spans, strict=True)
        ]

    def tokens(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TextLogProbs]:
        """Token sequences given the tokens before them.

        Args:
            pairs: tokens before, at least one, and the tokens to score.

        Raises:
            ValueError: a sequence has no token before it.
        """
        if any(not before for before, _ in pairs):
            raise ValueError("a token is needed before the tokens to score")
        kept, cut = [], []
        for before, scored in pairs:
            room = len(scored) if self.positions is None else self.positions - len(before)
            kept.append(list(scored[: max(0, room)]))
            cut.append(len(scored) - len(kept[-1]))
        found = [np.empty(0)] * len(pairs)
        where = [number for number, scored in enumerate(kept) if scored]
        if where:
            rows = _token_rows([(pairs[number][0], kept[number]) for number in where])
            longest = int(rows.lengths.max())
            size = BatchConfig(batch_tokens=max(longest, self._batch_tokens))
            batches = BatchPlan(rows, size).in_order()
            for number, losses in answer_token_losses(self._model, rows, batches):
                found[where[number]] = -losses
        return [
            TextLogProbs(tuple(ids), values, (), left_out)
            for ids, values, left_out in zip(kept, found, cut, strict=True)
        ]

    def _after(
        self, format: Tokeniser, prompts: Sequence[str], texts: Sequence[str], end: bool
    ) -> list[TextLogProbs]:
        if len(prompts) != len(texts):
            raise ValueError(f"{len(prompts)} prompts, and {len(texts)} texts to score")
        if any(not text for text in texts):
            raise ValueError("an empty text has no log-probability")
        before = [format.prompt(prompt) for prompt in prompts]
        pairs = format.pairs(before, [format.following(text) for text in texts])
        last = [self._last(format)] if end else []
        return self.tokens([(first or [self.start], [*rest, *last]) for first, rest in pairs])

    def _last(self, format: Tokeniser) -> int:
        """The token that ends an answer in a format."""
        eos = int(self.tokenizer.eos_token_id)
        others = format.ends() - {eos}
        return min(others) if format.chat and others else eos

    def _spanned(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a text and their places in it."""
        if not text:
            raise ValueError("an empty text has no log-probability")
        spells_control = self._control.quote(text) != text
        encoded = self.tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            **({"split_special_tokens": True} if spells_control else {}),
        )
        return list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]


def _token_rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> TokenRows:
    ids = [[*before, *scored] for before, scored in pairs]
    masks = [[False] * len(before) + [True] * len(scored) for before, scored in pairs]
    return TokenRows(
        pa.table(
            {
                "row_id": pa.nulls(len(ids), pa.string()),
                "input_ids": pa.array(ids, pa.large_list(pa.int32())),
                "answer_mask": pa.array(masks, pa.large_list(pa.bool_())),
            }
        )
    )
