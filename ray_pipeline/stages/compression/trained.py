"""Models that were trained to compress, as functions from prompts to shorter prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.text import TextConfig
from ray_pipeline.stages.compression.deletion import CountTokens, Prompt
from ray_pipeline.stages.compression.training_rows import KEEP, Form, prompt_tokens
from ray_pipeline.train.student import ModelKind

#: In a model's folder: how it compresses.
COMPRESSOR_FILE = "ray_pipeline_compressor.json"
#: Rows that are compressed at once.
_BATCH_ROWS = 32
KIND_OF: dict[Form, ModelKind] = {
    "seq2seq": "seq2seq",
    "causal": "causal",
    "keep_or_drop": "token_labels",
}


@dataclass(frozen=True)
class Method:
    """How a trained model compresses.

    Attributes:
        form: what kind of model it is.
        prefix: text before each prompt, for an encoder-decoder.
        max_new_tokens: tokens that it writes at most: those of the longest label it was trained
            on. It does not limit a model that keeps or drops words.
        max_prompt_tokens: tokens of the longest prompt it was trained on, with its prefix. A longer
            one is not compressed; words after them are kept by a model that keeps or drops.
        threshold: probability from which on such a model keeps a word.
    """

    form: Form
    prefix: str = ""
    max_new_tokens: int = 64
    max_prompt_tokens: int = 256
    threshold: float = 0.5

    def to_json(self) -> str:
        """The content of `COMPRESSOR_FILE`."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True)
class Compressed:
    """What a model made of a prompt.

    Attributes:
        text: the shorter prompt, or what came instead: nothing about it has been checked.
        is_cut: whether the limit of tokens ended it.
    """

    text: str
    is_cut: bool = False


class TrainedCompressor:
    """A model that was trained to compress.

    Greedy: a prompt's result depends on the prompt alone, up to rounding. What it returns is not
    checked: see `checks.fault`.

    Args:
        model: of the method's kind, on its device; it is set to evaluation.
        tokenizer: its tokenizer.
        method: how it compresses.
        text: format of the prompts of a causal model.
        patterns: what a model that keeps or drops words must keep, besides protected words.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        method: Method,
        text: TextConfig | None = None,
        patterns: Sequence[re.Pattern[str]] = (),
    ) -> None:
        self.model, self.tokenizer, self.method = model.eval(), tokenizer, method
        self._text, self._patterns = text, patterns

    def __call__(self, prompts: Sequence[str]) -> list[Compressed]:
        """Compress prompts; any number, each with a character at least."""
        if self.method.form == "keep_or_drop":
            return [self._kept(prompt) for prompt in self._scored(prompts)]
        written = self._causal if self.method.form == "causal" else self._seq2seq
        return written(prompts)

    def at_lengths(
        self, prompts: Sequence[str], max_tokens: Sequence[int], count: CountTokens
    ) -> list[str]:
        """The prompts with at most some tokens each, where protected words allow it.

        Only a model that keeps or drops words can do so: the words it finds least needed go first.

        Raises:
            UserError: it is another model.
        """
        if self.method.form != "keep_or_drop":
            raise UserError(
                "only a model that keeps or drops words takes a rate: a model that writes decides "
                "itself how short a prompt becomes"
            )
        return [
            prompt.shortened(prompt.least_first(scores), most, count)
            for (prompt, scores), most in zip(self._scored(prompts), max_tokens, strict=True)
        ]

    def _kept(self, scored: tuple[Prompt, list[float]]) -> Compressed:
        prompt, scores = scored
        gone = [place for place in prompt.free if scores[place] < self.method.threshold]
        return Compressed(prompt.deleted(gone))

    @torch.inference_mode()
    def _scored(self, prompts: Sequence[str]) -> list[tuple[Prompt, list[float]]]:
        """The prompts, and the probability that each word stays: the mean over its tokens."""
        made = [Prompt(text, self._patterns) for text in prompts]
        tokens = [prompt_tokens(self.tokenizer, text) for text in prompts]
        order = sorted(range(len(prompts)), key=lambda row: len(tokens[row][0]))
        scores: list[list[float]] = [[] for _ in prompts]
        limit = self.method.max_prompt_tokens
        for first in range(0, len(order), _BATCH_ROWS):
            rows = order[first : first + _BATCH_ROWS]
            ids, read = self._padded([tokens[row][0][:limit] for row in rows])
            logits = self.model(input_ids=ids, attention_mask=read).logits.float()
            keeps = logits.softmax(-1)[:, 1:, KEEP].cpu().numpy()
            for number, row in enumerate(rows):
                scores[row] = _of_words(
                    keeps[number], tokens[row][1][: limit - 1], len(made[row].words)
                )
        return list(zip(made, scores, strict=True))

    def _causal(self, prompts: Sequence[str]) -> list[Compressed]:
        from ray_pipeline.evaluate.generation import TextGenerator
        from ray_pipeline.models.decoding import Decoding

        generate = TextGenerator(self.model, self.tokenizer, self._text)
        answers = generate(prompts, Decoding(self.method.max_new_tokens), _BATCH_ROWS)
        return [Compressed(answer.text, not answer.ended) for answer in answers]

    @torch.inference_mode()
    def _seq2seq(self, prompts: Sequence[str]) -> list[Compressed]:
        sources = [
            self.tokenizer(self.method.prefix + text, split_special_tokens=True, verbose=False)[
                "input_ids"
            ]
            for text in prompts
        ]
        order = sorted(range(len(prompts)), key=lambda row: len(sources[row]))
        made: dict[int, Compressed] = {}
        # What cannot be read in whole is not compressed.
        fitting = [row for row in order if len(sources[row]) <= self.method.max_prompt_tokens]
        for first in range(0, len(fitting), _BATCH_ROWS):
            rows = fitting[first : first + _BATCH_ROWS]
            ids, read = self._padded([sources[row] for row in rows])
            written = self.model.generate(
                input_ids=ids,
                attention_mask=read,
                max_new_tokens=self.method.max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
            end = self.tokenizer.eos_token_id
            for row, tokens in zip(rows, written[:, 1:].tolist(), strict=True):
                text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
                made[row] = Compressed(text, end not in tokens)
        return [made.get(row, Compressed(prompts[row])) for row in range(len(prompts))]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(rows), width), pad)
        read = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            read[number, : len(row)] = 1
        device = self.model.device
        return ids.to(device), read.to(device)


def _of_words(keeps: Any, places: Sequence[int], words: int) -> list[float]:
    """The mean over the tokens of each word; 1 for words that were not read."""
    sums, counts = np.zeros(words), np.zeros(words)
    for value, place in zip(keeps, places, strict=False):
        sums[place] += value
        counts[place] += 1
    means = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
    # The last digits depend on the other rows of a batch.
    return [round(float(value), 5) for value in means]


def load_compressor(
    folder: str, device: str = "cpu", patterns: Sequence[re.Pattern[str]] = ()
) -> TrainedCompressor:
    """A model that `TrainCompressor` trained, from its folder (see `rundir.models.find_model`).

    Args:
        folder: of the model, on this machine.
        device: ``cpu`` or ``cuda``.
        patterns: as for `TrainedCompressor`.

    Raises:
        UserError: the folder does not say how the model compresses, or it cannot be loaded.
    """
    from ray_pipeline.models.decoding import trained_format
    from ray_pipeline.models.tokenizer import load_tokenizer
    from ray_pipeline.train.student import load

    path = Path(folder, COMPRESSOR_FILE)
    if not path.is_file():
        raise UserError(
            f"model {folder} was not trained to compress: it has no {COMPRESSOR_FILE}. "
            "jobs/prompt_compression.py trains one, models/compressor of its run"
        )
    method = Method(**json.loads(path.read_text()))
    tokenizer = load_tokenizer(folder)
    text = trained_format(folder, tokenizer) if method.form == "causal" else None
    model = load(folder, kind=KIND_OF[method.form]).to(device)
    return TrainedCompressor(model, tokenizer, method, text, patterns)
