"""Filtering of paraphrases: drops those that are not good enough to train on."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import AddedWith
from ray_pipeline.core.rows import drop, kept
from ray_pipeline.rundir.layout import ORIGINAL
from ray_pipeline.stage import MapStage, Row, StageConfig
from ray_pipeline.stages.text.answers import contains_text, is_chatter, is_refusal
from ray_pipeline.stages.text.meaning import (
    adds_too_much,
    asked_for,
    asks_the_same,
    changed_articles,
    is_garbled,
    lost_names,
    lost_words,
    names_change_places,
    new_names,
    new_words,
    repeated_words,
    same_negation,
)
from ray_pipeline.stages.text.paraphrases import asks, bare, same_numbers, same_words

TYPOS = "typos"
_TRUTH = frozenset({"yes", "no", "true", "false"})


class AcceptParaphrases(MapStage):
    """Drops the versions that are not a usable paraphrase of their source. Originals pass.

    Reasons, in the order they are tried: ``paraphrase:CODE`` if the model's answer was unusable
    from the start (``length``: it was cut off, ``content_filter``), ``paraphrase:empty``,
    ``paraphrase:refusal``, ``paraphrase:chatter`` (text that addresses the user),
    ``paraphrase:copy``, ``paraphrase:not_a_question``, ``paraphrase:too_short``,
    ``paraphrase:too_long``, ``paraphrase:gives_answer``, ``paraphrase:numbers``,
    ``paraphrase:negation``, ``paraphrase:names`` (others, or swapped),
    ``paraphrase:other_question`` (who for what), ``paraphrase:garbled`` (a second question word,
    "do" with "are"), ``paraphrase:repeats_words``, ``paraphrase:articles`` (the for a),
    ``paraphrase:adds_words`` (more than half as many), ``paraphrase:loses_words``,
    ``paraphrase:meaning``, and ``paraphrase:repeats_version`` (an earlier accepted version of the
    same row is the same).
    Versions with typing errors are only checked for an exact ``copy`` and for ``meaning``.

    Counts, for each version: ``VERSION accepted`` and ``VERSION CODE``.
    """

    name = "accept-paraphrases"
    reads = {
        "question": pa.string(),
        "answer": pa.string(),
        "version": pa.string(),
        "source_question": pa.string(),
        "source_answer": pa.string(),
        "similarity": pa.float32(),
    }
    export = "augmented_qa.csv"

    class Config(StageConfig):
        min_similarity: float = Field(
            0.75,
            ge=-1,
            le=1,
            description="minimum `similarity` (cosine, -1 to 1) of a paraphrase to its source",
        )
        min_similarity_typos: float = Field(
            0.3,
            ge=-1,
            le=1,
            description="the same for versions with typing errors; embedding models rate them "
            "lower although their meaning is unchanged",
        )
        max_growth: float = Field(
            2.0,
            ge=1,
            description="maximum length of a paraphrase, as a multiple of its source's "
            "characters; 40 more characters are always allowed",
        )
        min_length: float = Field(
            0.4,
            ge=0,
            le=1,
            description="minimum length of a paraphrase, as a fraction of its source's characters",
        )
        same_numbers: bool = Field(
            True,
            description="require that a paraphrase contains exactly the numbers of its source",
        )
        same_question: Annotated[bool, AddedWith(False)] = Field(
            False,
            description="require that a question asks for the same kind of thing as its source "
            "(who, where, how many, why ...), repeats no word, keeps the articles and adds few "
            "words, and that no text adds or loses a name or a negation; for English",
        )
        max_lost_words: Annotated[int | None, AddedWith(None)] = Field(
            None,
            ge=0,
            description="maximum number of content words of a question, compared by their stems, "
            "that its paraphrase may lack; a synonym counts as a lost word; null: no limit",
        )

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Check the versions of one unit; all versions of a row are in the same unit."""
        names = [*self.reads, "parent_id", "paraphrase_error"]
        present = [name for name in names if name in rows.column_names]
        seen: set[tuple[Any, ...]] = set()
        reasons: list[str | None] = []
        for row in rows.select(present).to_pylist():
            if row["version"] in (None, ORIGINAL):
                counts["original"] += 1
                reasons.append(None)
                continue
            found = self._fault(row)
            text = (row["parent_id"], *_to_compare(row))
            if found is None and text in seen:
                found = "repeats_version"
            if found is None:
                seen.add(text)
            counts[f"{row['version']} {(found or 'accepted').split(':')[0]}"] += 1
            reasons.append(found and f"paraphrase:{found}")
        marks = pa.array(reasons, pa.string())
        return drop(rows, marks.is_valid(), marks)

    def _fault(self, row: Row) -> str | None:
        """Code and detail of the first check that a version fails; None if it passes."""
        if row["version"] == TYPOS:
            same = _texts(row) == (row["source_question"], row["source_answer"])
            return "copy" if same else self._meaning(row, self.config.min_similarity_typos)
        if row.get("paraphrase_error"):
            return str(row["paraphrase_error"])
        if not all(text.strip() for text in _texts(row)):
            return "empty"
        return (
            _wrapped(row)
            or _wrong_kind(row)
            or self._wrong_length(row)
            or self._wrong_facts(row)
            or self._wrong_words(row)
            or self._meaning(row, self.config.min_similarity)
        )

    def _wrong_length(self, row: Row) -> str | None:
        for kind, new, old in _changed(row):
            longest = max(self.config.max_growth * len(old), len(old) + 40)
            if len(new) < self.config.min_length * len(old):
                return f"too_short: {kind} of {len(new)} characters for {len(old)}"
            if len(new) > longest:
                return f"too_long: {kind} of {len(new)} characters for {len(old)}"
        return None

    def _wrong_facts(self, row: Row) -> str | None:
        if _gives_answer(row):
            return "gives_answer"
        for kind, new, old in _changed(row):
            if self.config.same_numbers and not same_numbers(new, old):
                return f"numbers: {kind}"
        return None

    def _wrong_words(self, row: Row) -> str | None:
        """What a comparison of the words finds, which embeddings overlook."""
        question, source = row["question"], row["source_question"]
        if self.config.same_question:
            for kind, new, old in _changed(row):
                if not same_negation(new, old):
                    return f"negation: {kind}"
                if names := new_names(new, old):
                    return f"names: {kind} adds {', '.join(names)}"
                if names := lost_names(new, old):
                    return f"names: {kind} loses {', '.join(names)}"
            if names_change_places(question, source):
                return "names: they change places"
            if not asks_the_same(question, source):
                asked = [asked_for(text) for text in (question, source)]
                return f"other_question: asks for {asked[0]}, not for {asked[1]}"
            if is_garbled(question, source):
                return "garbled"
            if words := repeated_words(question, source):
                return f"repeats_words: {', '.join(words)}"
            if words := changed_articles(question, source):
                return f"articles: the {', the '.join(words)}"
            if adds_too_much(question, source):
                return f"adds_words: {', '.join(new_words(question, source))}"
        most, lost = self.config.max_lost_words, lost_words(question, source)
        if most is not None and len(lost) > most:
            return f"loses_words: {', '.join(lost)}"
        return None

    def _meaning(self, row: Row, least: float) -> str | None:
        similarity = row["similarity"]
        if similarity is not None and similarity >= least:
            return None
        return f"meaning: {'unknown' if similarity is None else f'{similarity:.2f} < {least:g}'}"

    def exported(self, rows: pa.Table) -> pa.Table:
        """The accepted rows, each followed by its versions."""
        rows = kept(rows)
        of_original = pc.if_else(
            pc.equal(rows["version"], ORIGINAL), rows["row_id"], rows["parent_id"]
        )
        first = pc.index_in(of_original, pc.unique(of_original))
        columns = {name: rows[name] for name in ("version", "question", "answer", "similarity")}
        made = pa.table({"original_id": of_original, **columns})
        return made.take(pc.sort_indices(first))


def _texts(row: Row) -> tuple[str, str]:
    return row["question"], row["answer"]


def _to_compare(row: Row) -> tuple[str, str]:
    """The key by which versions are equal: their words, or the letters for typing errors."""
    question, answer = _texts(row)
    return (question, answer) if row["version"] == TYPOS else (bare(question), bare(answer))


def _changed(row: Row) -> list[tuple[str, str, str]]:
    """The paraphrased texts: kind, new text, old text; always includes the question."""
    found = [("question", row["question"], row["source_question"])]
    if row["answer"] != row["source_answer"]:
        found.append(("answer", row["answer"], row["source_answer"]))
    return found


def _wrapped(row: Row) -> str | None:
    for kind, new, old in _changed(row):
        if is_refusal(new) and not is_refusal(old):
            return f"refusal: {kind}"
        if is_chatter(new) and not is_chatter(old):
            return f"chatter: {kind}"
    return None


def _wrong_kind(row: Row) -> str | None:
    question, source = row["question"], row["source_question"]
    if same_words(question, source):
        return "copy"
    return "not_a_question" if asks(source) and not asks(question) else None


def _gives_answer(row: Row) -> bool:
    """Whether the question now names the answer, and did not before."""
    answer = row["source_answer"]
    if bare(answer) in _TRUTH:
        return False
    return contains_text(row["question"], answer) and not contains_text(
        row["source_question"], answer
    )
