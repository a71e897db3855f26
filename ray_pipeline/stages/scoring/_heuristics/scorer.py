"""The four quality scores of instructions and responses, computed by the batch.

Every rule and number is that of the original experiment, see docs/jobs/quality-tradeoff/scores.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.stages.scoring._heuristics import rules
from ray_pipeline.stages.scoring._heuristics.characters import Flags, Texts, offsets_of
from ray_pipeline.stages.scoring._heuristics.features import (
    fences,
    lists,
    paragraphs,
    recompute_row,
    sentences,
    word_counts,
)
from ray_pipeline.stages.scoring._heuristics.readability import Readability
from ray_pipeline.stages.scoring._heuristics.rules import (
    COMPLEX_QUESTIONS,
    DIRECTIVES,
    STEPS,
    TOPICS,
    Features,
)
from ray_pipeline.stages.scoring._heuristics.tokens import Counts, Tokens
from ray_pipeline.stages.scoring._heuristics.words import Keywords, PieceFeatures, PieceReader

#: Bytes that are processed at a time: their arrays fit a processor's cache.
SLICE_BYTES = 1 << 19


@dataclass(frozen=True)
class Scores:
    """The scores of rows, and their numbers of tokens."""

    clarity: rules.Floats
    response_quality: rules.Floats
    diversity: rules.Floats
    complexity: rules.Floats
    tokens: rules.Integers


class QualityScorer:
    """Scores batches of rows.

    Args:
        tokenizer: a fast tokenizer of Hugging Face.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokens = Tokens(tokenizer)
        self._words = PieceReader(self._tokens)
        self._readability = Readability()
        #: Rows whose features were computed one by one.
        self.rows_scored_singly = 0

    def __call__(self, instructions: pa.StringArray, responses: pa.StringArray) -> Scores:
        """Score rows. The arrays hold valid UTF-8 and no nulls."""
        if not len(instructions):
            none = np.zeros(0)
            return Scores(none, none, none, none, np.zeros(0, dtype=np.int64))
        parts = [
            _scores(self._features(instructions.slice(at, rows), responses.slice(at, rows)))
            for at, rows in _slices(instructions, responses)
        ]
        columns = zip(*(vars(scores).values() for scores in parts), strict=True)
        return Scores(*map(np.concatenate, columns))

    def _features(self, instructions: pa.StringArray, responses: pa.StringArray) -> Features:
        questions, answers = Texts.of(instructions), Texts.of(responses)
        pairs = pc.binary_join_element_wise(instructions, responses, " ")
        joined = Texts.of(pairs)
        read = self._words.read(joined, joined.starts[:-1] + np.diff(questions.starts))
        not_plain = questions.not_plain() | answers.not_plain()
        counts = self._counts(read.counts, not_plain, pairs, joined)
        features = _batch_features(
            questions, answers, read, self._readability.of_texts(questions), counts
        )
        for row in np.flatnonzero(not_plain | read.uncertain).tolist():
            instruction, response = instructions[row].as_py(), responses[row].as_py()
            recompute_row(features, row, instruction, response, self._readability)
            self.rows_scored_singly += 1
        return features

    def _counts(
        self, counts: Counts | None, not_plain: Flags, pairs: pa.StringArray, joined: Texts
    ) -> Counts:
        if counts is None:
            return self._tokens.count_texts(pairs)
        by_tokenizer = np.flatnonzero(
            not_plain | self._tokens.hold_added_token(pairs, joined.bytes.tobytes())
        )
        if len(by_tokenizer):
            counts.replace(
                by_tokenizer, self._tokens.count_texts(pairs.take(pa.array(by_tokenizer)))
            )
        return counts


def _batch_features(
    questions: Texts,
    answers: Texts,
    read: PieceFeatures,
    reading_ease: rules.Floats,
    counts: Counts,
) -> Features:
    parts, varied = sentences(answers)
    topics = Keywords(read.instructions.bits | read.responses.bits)
    return Features(
        instruction_words=word_counts(questions),
        asks=questions.where(questions.at("?")) | read.instructions.any(DIRECTIVES),
        reading_ease=reading_ease,
        is_complex=read.instructions.any(COMPLEX_QUESTIONS),
        response_words=word_counts(answers),
        structured=paragraphs(answers) | lists(answers),
        sentences=parts,
        varied=varied,
        code=fences(answers) | read.responses.functions(),
        steps=read.responses.count(STEPS),
        topics=topics.count(TOPICS),
        tokens=counts.tokens,
        distinct=counts.distinct,
        distinct_pairs=counts.distinct_pairs,
    )


def _scores(features: Features) -> Scores:
    return Scores(
        rules.clarity(features),
        rules.response_quality(features),
        rules.diversity(features),
        rules.complexity(features),
        features.tokens,
    )


def _slices(instructions: pa.StringArray, responses: pa.StringArray) -> Iterator[tuple[int, int]]:
    """(first row, rows) of slices of about `SLICE_BYTES`, of one row at least."""
    ends = (offsets_of(instructions)[0] + offsets_of(responses)[0])[1:]
    at = 0
    while at < len(ends):
        begun = ends[at - 1] if at else 0
        end = max(at + 1, int(np.searchsorted(ends, begun + SLICE_BYTES)))
        yield at, end - at
        at = end
