"""Prompts and their compressions as token rows, for each kind of model that learns to compress."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from rapidfuzz.distance import LCSseq

from ray_pipeline.core.config import Execution
from ray_pipeline.core.rows import DROPPED, drop, set_column
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.stage import ModelStage, ModelStageConfig
from ray_pipeline.stages.compression.words import words_of

#: What is trained: an encoder-decoder, a causal model, or a classifier of words to keep.
Form = Literal["seq2seq", "causal", "keep_or_drop"]
#: Labels of the words of a prompt.
DROP, KEEP = 0, 1
#: A row as tokens: those that are read and those that are learnt, or why there are none.
Made = tuple[list[int], list[int]] | str


def chat_format() -> TextConfig:
    """The format in which a causal model compresses, by default."""
    return TextConfig(
        system="You make prompts shorter. You never answer them.",
        prompt="Prompt: {question}\nShorter prompt:",
        question_column="prompt",
        answer_column="compressed_prompt",
        overlong="drop",
    )


class TokeniseCompressions(ModelStage):
    """Writes ``input_ids`` and ``answer_mask`` for the model that is to learn to compress.

    A row is what the model reads, followed by what it learns:

    - ``seq2seq``: the prompt after a prefix, and the compression;
    - ``causal``: both as a chat, or in the plain format;
    - ``keep_or_drop``: the prompt, and for each of its tokens whether its word is in the
      compression, as in LLMLingua-2 (Pan et al. 2024, arXiv 2403.12968). Words are aligned in
      their order.

    Drops rows with a text that the tokenizer does not give back (``tokenizer:lossy``), as T5's
    does not with ``{``; texts that are too long (``tokens:…``); and compressions with words that
    the prompt has not, which no deletion makes (``labels:not_aligned``).
    """

    name = "tokenise-compressions"
    reads = {"prompt": pa.string(), "compressed_prompt": pa.string()}
    writes = {"input_ids": pa.list_(pa.int32()), "answer_mask": pa.list_(pa.bool_())}
    internal = ("input_ids", "answer_mask")
    is_quick = True
    export = "compressions_not_trained_on.csv"

    class Config(ModelStageConfig):
        model: str | None = Field(
            None,
            description="model that is trained to compress; null: this stage and the training are "
            "off",
        )
        form: Form = Field(
            "keep_or_drop",
            description="how it compresses; seq2seq: an encoder-decoder (T5, BART) writes the "
            "shorter prompt; causal: a causal language model does; keep_or_drop: an encoder says "
            "of each word whether it stays, so it cannot invent or answer",
        )
        prefix: str = Field(
            "compress: ", description="text before each prompt, for seq2seq; T5 was trained so"
        )
        text: TextConfig = Field(chat_format(), description="format of the text, for causal")
        max_prompt_tokens: int = Field(
            256, ge=3, description="longest prompt, with its prefix; longer ones are dropped"
        )
        max_new_words: float = Field(
            0.1,
            ge=0,
            le=1,
            description="largest share of a compression's words that are not in the prompt, in "
            "order, for keep_or_drop",
        )
        batch_rows: Annotated[int, Execution] = Field(
            1024, ge=1, description="rows that are tokenised at once"
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.model is None

    @property
    def models(self) -> Mapping[str, str]:
        """The model that is trained."""
        return {} if self.config.model is None else {"model": self.config.model}

    @property
    def tokenizer(self) -> str:
        """Folder or hub id of the model, whose tokenizer is used."""
        return self.model("model")

    def load(self) -> None:
        """Load the tokenizer."""
        self._tokenizer = load_tokenizer(self.tokenizer)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Tokenise every row."""
        made: list[Made] = []
        for first in range(0, rows.num_rows, self.config.batch_rows):
            made += self._made(rows.slice(first, self.config.batch_rows))
        ids = [None if isinstance(one, str) else one[0] + one[1] for one in made]
        masks = [
            None if isinstance(one, str) else [False] * len(one[0]) + [True] * len(one[1])
            for one in made
        ]
        rows = set_column(rows, "input_ids", pa.array(ids, pa.list_(pa.int32())))
        rows = set_column(rows, "answer_mask", pa.array(masks, pa.list_(pa.bool_())))
        reasons = pa.array([one if isinstance(one, str) else None for one in made], pa.string())
        return drop(rows, pc.is_valid(reasons), reasons)

    def _made(self, rows: pa.Table) -> list[Made]:
        form = self.config.form
        if form == "causal":
            return self._causal(rows)
        pairs = zip(rows["prompt"].to_pylist(), rows["compressed_prompt"].to_pylist(), strict=True)
        one = self._seq2seq if form == "seq2seq" else self._labelled
        return [one(prompt, compressed) for prompt, compressed in pairs]

    def _causal(self, rows: pa.Table) -> list[Made]:
        text = self.config.text.model_copy(
            update={"question_column": "prompt", "answer_column": "compressed_prompt"}
        )
        tokens = Tokeniser(self._tokenizer, text)(rows)
        columns = [tokens[name].to_pylist() for name in ("input_ids", "answer_mask", "status")]
        texts = [rows[name].to_pylist() for name in ("prompt", "compressed_prompt")]
        made: list[Made] = []
        for ids, mask, status, reason, *both in zip(
            *columns, tokens["reason"].to_pylist(), *texts, strict=True
        ):
            if status == DROPPED:
                made.append(reason)
            elif (lossy := self._lossy(both)) is not None:
                made.append(lossy)
            else:
                first = mask.index(True)
                made.append((ids[:first], ids[first:]))
        return made

    def _seq2seq(self, prompt: str, compressed: str) -> Made:
        if (lossy := self._lossy([prompt, compressed])) is not None:
            return lossy
        source = self._ids(self.config.prefix + prompt)
        if len(source) > self.config.max_prompt_tokens:
            return self._too_long(len(source))
        return source, self._ids(compressed)

    def _labelled(self, prompt: str, compressed: str) -> Made:
        source, places = prompt_tokens(self._tokenizer, prompt)
        if len(source) > self.config.max_prompt_tokens:
            return self._too_long(len(source))
        kept, new = aligned(prompt, compressed)
        if new > self.config.max_new_words:
            return f"labels:not_aligned: {new:.0%} of the words are not in the prompt, in order"
        return source, [KEEP if place in kept else DROP for place in places]

    def _too_long(self, tokens: int) -> str:
        return f"tokens:prompt_too_long: {tokens} tokens"

    def _ids(self, text: str) -> list[int]:
        made: list[int] = self._tokenizer(text, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        return made

    def _lossy(self, texts: Sequence[str]) -> str | None:
        """Why a text cannot be learnt: the tokenizer gives back another one."""
        for text in texts:
            ids = self._tokenizer(
                text, add_special_tokens=False, split_special_tokens=True, verbose=False
            )["input_ids"]
            back = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()
            if back != text.strip():
                return f"tokenizer:lossy: {_first_difference(text.strip(), back)}"
        return None


def _first_difference(text: str, back: str) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b),
        min(len(text), len(back)),
    )
    return f"{text[place : place + 12]!r} becomes {back[place : place + 12]!r}"


def prompt_tokens(tokenizer: Any, prompt: str) -> tuple[list[int], list[int]]:
    """A prompt's tokens with the two around it, and the place of the word of each between them.

    Raises:
        ValueError: the tokenizer does not put one token before and one after a text.
    """
    encoded = tokenizer(
        prompt, return_offsets_mapping=True, split_special_tokens=True, verbose=False
    )
    ids: list[int] = list(encoded["input_ids"])
    spans = encoded["offset_mapping"][1:-1]
    if len(ids) < 2 or any(a == b for a, b in spans):
        raise ValueError("keep_or_drop needs a tokenizer with one token before and after a text")
    ends = [word.end for word in words_of(prompt)]
    last = max(0, len(ends) - 1)
    return ids, [min(last, bisect.bisect_right(ends, start)) for start, _ in spans]


def aligned(prompt: str, compressed: str) -> tuple[set[int], float]:
    """The places of the prompt's words that a compression keeps, and its share of new words.

    Words are compared without punctuation and case, and aligned in order.
    """
    before, after = list(_compared(prompt)), list(_compared(compressed))
    # The longest common subsequence, 64 words at a time: difflib takes quadratic time. From the
    # end, so that of several articles the one right before the kept noun is taken.
    last = len(before) - 1
    kept = {
        last - place
        for step in LCSseq.opcodes(before[::-1], after[::-1])
        if step.tag == "equal"
        for place in range(step.src_start, step.src_end)
    }
    return kept, 1 - len(kept) / len(after) if after else 0.0


def _compared(text: str) -> Iterator[str]:
    for word in words_of(text):
        yield word.lower or text[word.start : word.end]
