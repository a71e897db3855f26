"""Answers by `generate` of transformers, in batches of similar length, and their speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.decoding import Decoding, Generated, ModelText, own_ends
from ray_pipeline.models.text import TextConfig

#: Prompts that are answered one at a time to measure the latency.
_ALONE = 8


class TextGenerator:
    """A causal language model that answers questions.

    Of the model's own generation configuration only the tokens that end an answer are used: models
    are compared under one decoding, without their makers' penalties or temperatures.

    Args:
        model: of transformers, on its device; it is set to evaluation.
        tokenizer: its tokenizer.
        text: the prompt format of its training.

    Raises:
        UserError: the tokenizer lacks what the format needs.
    """

    def __init__(self, model: Any, tokenizer: Any, text: TextConfig | None = None) -> None:
        self.model = model.eval()
        self.text = ModelText(tokenizer, text, own_ends(model.generation_config))
        #: Tokens of a prompt and its answer, at most; None: no limit.
        self.positions = getattr(model.config, "max_position_embeddings", None)

    def __call__(
        self, questions: Sequence[str], decoding: Decoding | None = None, batch_rows: int = 32
    ) -> list[Generated]:
        """Answer questions.

        A greedy answer depends on its question alone, up to rounding: padding is masked, and no
        answer is shortened for a longer prompt in its batch. A sampled answer depends on its batch,
        too; the same questions in batches of the same size get the same answers.

        Args:
            questions: any number.
            decoding: how tokens are chosen; None: greedy, with at most 64 tokens.
            batch_rows: questions in a batch, at most.

        Returns:
            An answer for each, in order.

        Raises:
            UserError: a prompt leaves the model no room for an answer.
        """
        decoding = decoding or Decoding()
        prompts = self.text.prompts(questions)
        answers: dict[int, Generated] = {}
        with _seeded(decoding.seed, self.model.device), _without_defaults(self.model):
            for room, rows in self._batches(prompts, decoding.max_new_tokens, batch_rows):
                made = self._tokens([prompts[row] for row in rows], room, decoding)
                answers.update(zip(rows, map(self.text.answer, made), strict=True))
        return [answers[row] for row in range(len(prompts))]

    def _batches(
        self, prompts: Sequence[Sequence[int]], most: int, batch_rows: int
    ) -> Iterator[tuple[int, list[int]]]:
        """Batches of rows by length, each with the limit of tokens for its answers.

        Only rows with the same limit share a batch. All rows have the same limit, except for those
        whose prompts come near the model's last position.
        """
        rooms = [self._room(prompt, most) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda row: (rooms[row], len(prompts[row])))
        for room, group in groupby(by_length, key=lambda row: rooms[row]):
            rows = list(group)
            for first in range(0, len(rows), batch_rows):
                yield room, rows[first : first + batch_rows]

    def _room(self, prompt: Sequence[int], most: int) -> int:
        if self.positions is None:
            return most
        room = min(most, self.positions - len(prompt))
        if room < 1:
            raise UserError(
                f"a prompt has {len(prompt)} tokens, and the model takes {self.positions}, its "
                "answer among them: shorten the question"
            )
        return room

    @torch.inference_mode()
    def _tokens(
        self, prompts: Sequence[Sequence[int]], room: int, decoding: Decoding
    ) -> list[list[int]]:
        """The tokens that the model generates after each prompt."""
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.text.pad)
        attended = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            attended[row, width - len(prompt) :] = 1
        sampling = {"temperature": decoding.temperature, "top_k": 0, "top_p": decoding.top_p}
        config = GenerationConfig(
            max_new_tokens=room,
            eos_token_id=sorted(self.text.ends),
            pad_token_id=self.text.pad,
            do_sample=decoding.temperature > 0,
            **(sampling if decoding.temperature > 0 else {}),
        )
        device = self.model.device
        made = self.model.generate(
            input_ids=ids.to(device), attention_mask=attended.to(device), generation_config=config
        )
        tokens: list[list[int]] = made[:, width:].tolist()
        return tokens


@contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """Hide a model's generation configuration, whose values are defaults of `generate`."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a block, and restore its random generators."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Speed:
    """The speed of a model.

    Attributes:
        latency_seconds: median time of an answer, over questions that were asked one at a time.
        latency_prompts: number of these questions.
        tokens_per_second: generated tokens of all questions in batches; the time includes prompt
            processing, the token count does not.
    """

    latency_seconds: float
    latency_prompts: int
    tokens_per_second: float

    def to_json(self) -> dict[str, float]:
        """As plain data, for metrics."""
        return asdict(self)


def timed(
    generator: TextGenerator, questions: Sequence[str], decoding: Decoding, batch_rows: int
) -> tuple[list[Generated], Speed]:
    """Answer questions and measure the speed.

    Args:
        generator: the model.
        questions: at least one.
        decoding: how tokens are chosen.
        batch_rows: questions in a batch.
    """
    latencies = []
    generator(questions[:1], decoding)  # warm-up: the first call includes set-up
    for question in questions[:_ALONE]:
        began = time.perf_counter()
        generator([question], decoding)
        latencies.append(time.perf_counter() - began)
    began = time.perf_counter()
    answers = generator(questions, decoding, batch_rows)
    seconds = time.perf_counter() - began
    tokens = sum(answer.tokens for answer in answers)
    return answers, Speed(statistics.median(latencies), len(latencies), tokens / seconds)
