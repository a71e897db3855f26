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
from ray_pipeline.stages.scoring._heuristics.found import (
    correct,
    fences,
    lists,
    paragraphs,
    sentences,
    word_counts,
)
from ray_pipeline.stages.scoring._heuristics.readability import Readability
from ray_pipeline.stages.scoring._heuristics.rules import (
    COMPLEX_QUESTIONS,
    DIRECTIVES,
    STEPS,
    TOPICS,
    Found,
)
from ray_pipeline.stages.scoring._heuristics.tokens import Counts, Tokens
from ray_pipeline.stages.scoring._heuristics.words import Keywords, Read, Words

#: Bytes that are worked on at once: their arrays fit a processor's cache, and memory is bounded.
SLICE_BYTES = 1 << 19


@dataclass(frozen=True)
class Scores:
    """The scores of some rows, and how many tokens they have."""

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
        self._words = Words(self._tokens)
        self._readability = Readability()
        #: Rows that were looked at one by one, for a character that is not plain.
        self.alone = 0

    def __call__(self, instructions: pa.StringArray, responses: pa.StringArray) -> Scores:
        """Score rows. The arrays hold valid UTF-8 and no nulls."""
        if not len(instructions):
            none = np.zeros(0)
            return Scores(none, none, none, none, np.zeros(0, dtype=np.int64))
        made = [
            _scores(self._look(instructions.slice(at, rows), responses.slice(at, rows)))
            for at, rows in _slices(instructions, responses)
        ]
        columns = zip(*(vars(scores).values() for scores in made), strict=True)
        return Scores(*map(np.concatenate, columns))

    def _look(self, instructions: pa.StringArray, responses: pa.StringArray) -> Found:
        questions, answers = Texts.of(instructions), Texts.of(responses)
        pairs = pc.binary_join_element_wise(instructions, responses, " ")
        joined = Texts.of(pairs)
        read = self._words.read(joined, joined.starts[:-1] + np.diff(questions.starts))
        strange = questions.strange() | answers.strange()
        counts = self._counts(read.counts, strange, pairs, joined)
        found = _found(questions, answers, read, self._readability.of_texts(questions), counts)
        for row in np.flatnonzero(strange | read.unsure).tolist():
            instruction, response = instructions[row].as_py(), responses[row].as_py()
            correct(found, row, instruction, response, self._readability)
            self.alone += 1
        return found

    def _counts(
        self, counts: Counts | None, strange: Flags, pairs: pa.StringArray, joined: Texts
    ) -> Counts:
        if counts is None:
            return self._tokens.by_text(pairs)
        again = np.flatnonzero(strange | self._tokens.must_be_read(pairs, joined.bytes.tobytes()))
        if len(again):
            counts.replace(again, self._tokens.by_text(pairs.take(pa.array(again))))
        return counts


def _found(
    questions: Texts, answers: Texts, read: Read, reading_ease: rules.Floats, counts: Counts
) -> Found:
    parts, varied = sentences(answers)
    topics = Keywords(read.instructions.bits | read.responses.bits)
    return Found(
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


def _scores(found: Found) -> Scores:
    return Scores(
        rules.clarity(found),
        rules.response_quality(found),
        rules.diversity(found),
        rules.complexity(found),
        found.tokens,
    )


def _slices(one: pa.StringArray, other: pa.StringArray) -> Iterator[tuple[int, int]]:
    """(first row, rows) of slices of about `SLICE_BYTES`, of one row at least."""
    ends = (offsets_of(one)[0] + offsets_of(other)[0])[1:]
    at = 0
    while at < len(ends):
        begun = ends[at - 1] if at else 0
        end = max(at + 1, int(np.searchsorted(ends, begun + SLICE_BYTES)))
        yield at, end - at
        at = end
