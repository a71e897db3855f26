"""Rules that recognise outliers: references to a course, code, filler text, other languages."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator

from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, StageConfig

#: The keywords of the original experiment ("chapter", "syllabus", "refer to") and similar ones, but
#: only where they refer to the course or the book itself: a question about the chapters of a novel
#: is a valid question.
_PATTERNS = {
    "course": r"(?i)\b(syllabus|office hours|midterm|homework \d|this (course|module|lesson)|"
    r"refer to (section|chapter|figure|table|page|appendix)|"
    r"(see|read|review) (the )?(chapter|section|figure|table|appendix|page)s? [\d]|"
    r"(previous|next|last|today's) (lecture|lesson)|learning objectives|lab report|"
    r"(the|your|this) (assignment|textbook|worksheet|instructor)|grading policy|"
    r"(final|course) grade)\b",
    "code": r"(?m)[;{]\s*$|^\s*(def|class|import|from) \w+.*[:\w]$|\breturn \w+.*;|"
    r"</?\w+[^<>]*>.*</|=>|\+\+\)|\bconsole\.log\(|#include|\w\(\)\s*[;{]|\bif \w+ [!=]= |"
    r"\bSELECT .+ FROM\b|\b(pip|apt|npm|git|docker) (install|commit|push|run|clone)\b|"
    r"\w+\.\w+\(.*\)$",
    "filler": r"(?i)\b(lorem ipsum|dolor sit amet|consectetur adipiscing)\b|\basdf|"
    r"^(test|todo|tbd|n/?a)\W*$",
}


def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class OutlierRules(MapStage):
    """Writes the name of the rule that a row breaks; drops nothing.

    The rule ``language`` uses langid (Lui and Baldwin, 2012), which is reliable on short texts
    when its confidence is high: above 0.8 it was wrong about none of 2,000 English quiz questions.
    """

    name = "outlier-rules"
    reads = {"question": pa.string(), "answer": pa.string()}
    writes = {"outlier_rule": pa.string()}

    class Config(StageConfig):
        patterns: dict[str, str] = Field(
            default_factory=lambda: dict(_PATTERNS),
            description="regular expressions by the name of their rule; a row is marked with the "
            "first rule that matches",
        )
        language: str | None = Field(
            "en",
            description="ISO 639-1 code of the language that rows must be in; null: any language",
        )
        min_language_confidence: float = Field(
            0.8,
            ge=0,
            le=1,
            description="probability above which a text counts as written in another language",
        )
        min_language_chars: int = Field(
            20,
            ge=1,
            description="minimum number of characters of a text for its language to be checked",
        )

        @field_validator("patterns")
        @classmethod
        def _compile(cls, patterns: dict[str, str]) -> dict[str, str]:
            for name, pattern in patterns.items():
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{name}: not a regular expression: {error}") from None
            return patterns

        @field_validator("language")
        @classmethod
        def _known(cls, language: str | None) -> str | None:
            if language is not None and language not in (known := _identifier().labels):
                raise ValueError(
                    f"{language!r} is not one of the languages {', '.join(sorted(known))}"
                )
            return language

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Mark each row with the first rule that it breaks."""
        pairs = zip(rows["question"].to_pylist(), rows["answer"].to_pylist(), strict=True)
        broken = [self._broken(question or "", answer or "") for question, answer in pairs]
        counts.update(rule for rule in broken if rule)
        return set_column(rows, "outlier_rule", pa.array(broken, pa.string()))

    def _broken(self, question: str, answer: str) -> str | None:
        # The beginning of a long text is enough; matching megabytes takes minutes.
        text = f"{question[:2_000]}\n{answer[:2_000]}"
        for name, pattern in self._compiled.items():
            if pattern.search(text):
                return name
        if self.config.language is None or len(text) < self.config.min_language_chars:
            return None
        language, confidence = self._language.classify(text)
        other = language != self.config.language
        return "language" if other and confidence >= self.config.min_language_confidence else None

    @cached_property
    def _compiled(self) -> dict[str, re.Pattern[str]]:
        return {name: re.compile(pattern) for name, pattern in self.config.patterns.items()}

    @cached_property
    def _language(self) -> Any:
        return _identifier()

    def __getstate__(self) -> dict[str, Any]:
        # The language identifier is loaded in each worker instead of being pickled.
        return {k: v for k, v in self.__dict__.items() if k not in ("_language", "_compiled")}
