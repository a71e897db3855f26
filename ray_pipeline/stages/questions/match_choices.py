"""Matching the answer of a multiple-choice question to one of its options."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.models.hub import at_commit
from ray_pipeline.stage import ModelStage, ModelStageConfig
from ray_pipeline.stages.questions import choices


@dataclass
class _Match:
    """The result of matching one multiple-choice row."""

    question: choices.MultipleChoice
    answer: str
    index: int | None = None
    how: Literal["letter", "text", "fuzzy", "embedding"] | None = None
    score: float | None = None
    #: Why the row is dropped.
    reason: str | None = None

    @property
    def outcome(self) -> str:
        """How it was matched, or why not; the name of its counter."""
        return str(self.how) if self.reason is None else self.reason.split(":")[1]


class MatchChoices(ModelStage):
    """Finds the options of a question, and the option that the answer means.

    Options are matched by letter, then by text, then by spelling (`choices.match_fuzzy`), and only
    the remaining ones by the cosine similarity of embeddings. ``answer`` becomes the full text of
    the option; ``original_answer`` keeps the old one. Rows that are not multiple choice pass
    unchanged.

    Reasons: ``multiple-choice:no_option``, ``multiple-choice:ambiguous``,
    ``multiple-choice:none_of_these``, ``multiple-choice:malformed``. Counts: ``letter``, ``text``,
    ``fuzzy``, ``embedding``, ``no_option``, ``ambiguous``, ``none_of_these``, ``malformed``,
    ``spelled_out``.
    """

    name = "match-choices"
    reads = {"question": pa.string(), "answer": pa.string()}
    writes = {
        "answer": pa.string(),
        "original_answer": pa.string(),
        "choices": pa.list_(pa.string()),
        "choice_match": pa.string(),
        "choice_score": pa.float64(),
    }
    export = "unmatched_choices.csv"
    uses_embedder = True

    class Config(ModelStageConfig):
        min_fuzzy_ratio: float = Field(
            90.0,
            ge=0,
            le=100,
            description="minimum token_sort_ratio (rapidfuzz, 0 to 100) of an answer and an "
            "option that count as spellings of the same text; their numbers must always be equal",
        )
        min_similarity: float = Field(
            0.6,
            ge=-1,
            le=1,
            description="minimum cosine similarity of an answer and the option that it matches",
        )
        min_margin: float = Field(
            0.05,
            ge=0,
            description="minimum lead in similarity of the best option over the second; with a "
            "smaller lead the row is ambiguous",
        )
        if_no_option: Literal["drop", "keep"] = Field(
            "drop",
            description="what happens to a row whose answer matches no option, or several: it is "
            "dropped, or kept unchanged and not converted",
        )
        spell_out: bool = Field(
            True,
            description='replace an option such as "All of these" or "Both A and B" by the '
            'options it refers to, and treat "None of these" as no match, because neither is an '
            "answer once the options are removed",
        )
        batch_size: Annotated[int, Execution] = Field(
            64, ge=1, description="texts embedded per batch"
        )

    config: Config

    def load(self) -> None:
        """Load nothing yet: most units have no answer left to embed and need no model."""
        self._embedder: Any = None

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Match the answers of one unit."""
        questions: list[Any] = rows["question"].to_pylist()
        answers: list[Any] = rows["answer"].to_pylist()
        matches: list[_Match | None] = []
        malformed: list[bool] = []
        for question, answer in zip(questions, answers, strict=True):
            parsed = choices.parse(question)
            malformed.append(parsed is None and choices.is_malformed(question))
            matches.append(None if parsed is None else self._match_words(parsed, answer))
        found = [match for match in matches if match is not None]
        self._match_by_meaning([m for m in found if m.index is None and m.reason is None])
        counts["malformed"] += sum(malformed)
        for match in found:
            self._judge_option(match)
            counts[match.outcome] += 1
        rows = self._write(rows, matches, counts)
        reason = "multiple-choice:malformed: an option is missing"
        rows = drop(rows, pa.array(malformed, pa.bool_()), reason)
        if self.config.if_no_option == "keep":
            return rows
        reasons = pa.array([m.reason if m else None for m in matches], pa.string())
        return drop(rows, reasons.is_valid(), reasons)

    def _match_words(self, question: choices.MultipleChoice, answer: str) -> _Match:
        options = question.options
        match = _Match(question, answer)
        by_letter = choices.match_letter(answer, options)
        by_text = choices.match_text(answer, options)
        if by_text is not None:
            match.index, match.how, match.score = by_text, "text", 1.0
            if by_letter is not None and options[by_letter] != options[by_text]:
                letters = choices.LETTERS
                match.reason = (
                    f"multiple-choice:ambiguous: {answer!r} is the text of option "
                    f"{letters[by_text]} and the letter of option {letters[by_letter]}"
                )
        elif by_letter is not None:
            match.index, match.how, match.score = by_letter, "letter", 1.0
        else:
            fuzzy = choices.match_fuzzy(answer, options, self.config.min_fuzzy_ratio)
            if fuzzy is not None:
                match.index, match.how, match.score = fuzzy[0], "fuzzy", round(fuzzy[1] / 100, 4)
        return match

    def _match_by_meaning(self, unmatched: list[_Match]) -> None:
        if not unmatched:
            return
        texts = {text for m in unmatched for text in (m.answer, *m.question.options)}
        vectors = self._embed(sorted(texts))
        for match in unmatched:
            options = match.question.options
            cosines = np.stack([vectors[option] for option in options]) @ vectors[match.answer]
            best = int(np.argmax(cosines))
            # Rounded, because the last digits depend on what else is in the batch.
            match.score = round(float(cosines[best]), 4)
            others = [float(c) for o, c in zip(options, cosines, strict=True) if o != options[best]]
            second = round(max(others, default=-1.0), 4)
            if match.score < self.config.min_similarity:
                match.reason = (
                    f"multiple-choice:no_option: best {options[best]!r} "
                    f"{match.score:.2f} < {self.config.min_similarity:g}"
                )
            elif match.score - second < self.config.min_margin:
                match.reason = (
                    f"multiple-choice:ambiguous: best {options[best]!r} "
                    f"{match.score:.2f}, second {second:.2f}"
                )
            else:
                match.index, match.how = best, "embedding"

    def _embed(self, texts: list[str]) -> dict[str, np.ndarray]:
        if self._embedder is None:
            if self.settings.embedder is None:
                raise UserError("stage match-choices needs a model: set embedder.model")
            from sentence_transformers import SentenceTransformer

            device = "cuda" if self.config.num_gpus else "cpu"
            name, commit = at_commit(self.settings.embedder)
            self._embedder = SentenceTransformer(name, device=device, **commit)
        vectors = self._embedder.encode(
            texts,  # sentence-transformers sorts by length itself
            batch_size=self.config.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return dict(zip(texts, vectors, strict=True))

    def _judge_option(self, match: _Match) -> None:
        """Handle options that refer to others, which cannot answer a stand-alone question."""
        if match.index is None or not self.config.spell_out or match.reason is not None:
            return
        option = match.question.options[match.index]
        if choices.is_none_of_the_options(option):
            match.reason = f"multiple-choice:none_of_these: the answer is {option!r}"

    def _write(
        self, rows: pa.Table, matches: list[_Match | None], counts: Counter[str]
    ) -> pa.Table:
        answers = rows["answer"].to_pylist()
        originals: list[str | None] = [None] * len(answers)
        for i, match in enumerate(matches):
            if match is None or match.index is None or match.reason is not None:
                continue
            options = match.question.options
            answer = options[match.index]
            spelled_out = choices.spell_out(answer, options) if self.config.spell_out else None
            counts["spelled_out"] += spelled_out is not None
            answer = spelled_out or answer
            if answer != match.answer:
                answers[i], originals[i] = answer, match.answer
        # A kept row without a match is no longer treated as multiple choice.
        options_of = [
            list(m.question.options)
            if m and (m.reason is None or self.config.if_no_option == "drop")
            else None
            for m in matches
        ]
        columns: dict[str, list[Any]] = {
            "answer": answers,
            "original_answer": originals,
            "choices": options_of,
            "choice_match": [m.how if m and m.reason is None else None for m in matches],
            "choice_score": [m.score if m else None for m in matches],
        }
        for column, values in columns.items():
            rows = set_column(rows, column, pa.array(values, self.writes[column]))
        return rows
