"""Candidates for the compression of a prompt: made, checked, and one of them chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.compression.checks import Limits, fault, tidy_answer
from ray_pipeline.stages.compression.deletion import Prompt
from ray_pipeline.stages.compression.measure import AfterMeasuring
from ray_pipeline.stages.compression.rules import Rule

Origin = Literal[
    "answer_trimmed",
    "answer",
    "variants",
    "stop_words",
    "articles_and_filler",
    "articles",
    "filler",
]
#: The rules of an origin that deletes words.
RULES_OF: Mapping[Origin, tuple[Rule, ...]] = {
    "articles": ("articles",),
    "filler": ("filler",),
    "articles_and_filler": ("articles", "filler"),
    "stop_words": ("articles", "filler", "stop_words"),
}
CANDIDATE = pa.struct(
    [
        pa.field("origin", pa.string()),
        pa.field("text", pa.string()),
        pa.field("tokens", pa.int64()),
        pa.field("fault", pa.string()),
    ]
)


@dataclass(frozen=True)
class Candidate:
    """A text that may replace a prompt.

    Attributes:
        origin: what made it.
        text: the text.
        tokens: its tokens.
        fault: why it may not (see `checks.fault`); None if it may.
    """

    origin: Origin
    text: str
    tokens: int
    fault: str | None


class CheckCandidates(AfterMeasuring, MapStage):
    """Collects the candidates for each prompt, with what is wrong with each: ``candidates``.

    From the model's answers (``answer``; ``answer_trimmed``, the answer without articles and final
    full stop; ``variants``) and from deletions by rule. Drops nothing: `ChooseCompression` takes
    one of those without a fault, and `Curate` drops the rows that have none.

    Texts of the primary pass are tidied first: a preamble, a label or quotation marks around the
    answer are taken off.
    """

    name = "check-candidates"
    reads = {"prompt": pa.string()}
    writes = {"candidates": pa.list_(CANDIDATE)}
    internal = ("candidates",)

    class Config(StageConfig):
        rules: tuple[Literal["articles", "filler", "articles_and_filler", "stop_words"], ...] = (
            Field(
                ("articles_and_filler", "stop_words"),
                description="deletions by rule that are candidates, besides the model's answers; "
                "[]: only the answers",
            )
        )
        trim: bool = Field(
            True,
            description="make a further candidate of each answer: without articles and final full "
            "stop, except in code, quotations, names and other protected words",
        )
        limits: Limits = Field(Limits(), description="how much a compression may change")

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Collect and check the candidates of every row."""
        prompts = rows["prompt"].to_pylist()
        columns = [_texts(rows, name) for name in ("answer", "answer_error", "variant_compressed")]
        found = [
            self.candidates(prompt, *texts)
            for prompt, *texts in zip(prompts, *columns, strict=True)
        ]
        for candidates in found:
            for candidate in candidates:
                code = (candidate.fault or "accepted").partition(":")[0]
                counts[f"{candidate.origin}: {code}"] += 1
        column = pa.array([[vars(c) for c in made] for made in found], pa.list_(CANDIDATE))
        return set_column(rows, "candidates", column)

    def candidates(
        self,
        prompt: str,
        answer: str | None = None,
        answer_error: str | None = None,
        variant: str | None = None,
    ) -> list[Candidate]:
        """The candidates for one prompt."""
        made = []
        if answer is not None or answer_error is not None:
            text = tidy_answer(answer or "")
            made.append(self._checked("answer", prompt, text, _code_of(answer_error)))
            is_own = " ".join(text.split()) != " ".join(prompt.split())
            if self.config.trim and answer_error is None and is_own:
                trimmed = trim(text, self.patterns)
                if trimmed != text:
                    made.append(self._checked("answer_trimmed", prompt, trimmed))
        if variant is not None:
            made.append(self._checked("variants", prompt, variant))
        original = Prompt(prompt, self.patterns)
        for origin in self.config.rules:
            text = original.by_rule(*RULES_OF[origin])
            made.append(self._checked(origin, prompt, text))
        return made

    def _checked(
        self, origin: Origin, prompt: str, text: str, error: str | None = None
    ) -> Candidate:
        by_model = origin not in RULES_OF
        found = error or fault(
            prompt, text, self.count, self.config.limits, self.patterns, by_model=by_model
        )
        return Candidate(origin, text, self.count(text), found)


def _code_of(answer_error: str | None) -> str | None:
    """The fault of an answer that came with an error of its own."""
    if answer_error is None:
        return None
    codes = {"length": "cut", "content_filter": "refused", "refused": "refused", "empty": "empty"}
    return codes.get(answer_error, answer_error)


def trim(text: str, patterns: Sequence[Any] = ()) -> str:
    """The text without articles, and without the full stop that ends it.

    Code, quotations, names and what else must stay are not touched.
    """
    text = Prompt(text, patterns).by_rule("articles")
    prompt = Prompt(text, patterns)
    last = prompt.words[-1] if prompt.words else None
    if last is None or last.tail != "." or len(prompt.words) - 1 in prompt.protected:
        return text
    return text[: last.end - 1] + text[last.end :]


def _texts(rows: pa.Table, name: str) -> list[str | None]:
    if name not in rows.column_names:
        return [None] * rows.num_rows
    found: list[str | None] = rows[name].to_pylist()
    return found


class ChooseCompression(MapStage):
    """Takes one candidate without a fault for each prompt, or none.

    Writes ``compressed_prompt``, ``compressed_tokens`` and ``compression_origin``; where no
    candidate may be taken they are null, and ``compression_fault`` says why: the fault of the
    first candidate, which is the model's answer where one was asked.

    With `candidate_log_probs` (see `ScoreCandidates`) it takes the candidate with the highest
    score; else the first origin of `prefer`.
    """

    name = "choose-compression"
    reads = {"prompt": pa.string(), "candidates": pa.list_(CANDIDATE)}
    writes = {
        "compressed_prompt": pa.string(),
        "compressed_tokens": pa.int64(),
        "compression_origin": pa.string(),
        "compression_fault": pa.string(),
    }

    class Config(StageConfig):
        prefer: tuple[Origin, ...] = Field(
            ("answer_trimmed", "answer", "variants", "articles_and_filler", "articles", "filler"),
            description="origins that may be taken, in this order where no model chooses. "
            "`stop_words` (is, of, that) is not among them by default",
        )

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Choose for every row."""
        scores = [None] * rows.num_rows
        if "candidate_log_probs" in rows.column_names:
            scores = rows["candidate_log_probs"].to_pylist()
        chosen = [
            self._choose(candidates, of_row)
            for candidates, of_row in zip(rows["candidates"].to_pylist(), scores, strict=True)
        ]
        counts.update(f"chosen: {row['compression_origin'] or 'none'}" for row in chosen)
        for name, kind in self.writes.items():
            rows = set_column(rows, name, pa.array([row[name] for row in chosen], kind))
        return rows

    def _choose(
        self, candidates: Sequence[Mapping[str, Any]], scores: Sequence[float | None] | None
    ) -> dict[str, Any]:
        allowed = [
            (place, candidate)
            for place, candidate in enumerate(candidates)
            if candidate["fault"] is None and candidate["origin"] in self.config.prefer
        ]
        if not allowed:
            first = candidates[0]["fault"] if candidates else "empty"
            if first is None:
                first = f"origin: {candidates[0]['origin']} may not be taken"
            return dict.fromkeys(self.writes) | {"compression_fault": first}

        def rank(item: tuple[int, Mapping[str, Any]]) -> tuple[float, int, str]:
            place, candidate = item
            score = scores[place] if scores is not None else None
            own = math.inf if score is None else -score
            return own, self.config.prefer.index(candidate["origin"]), candidate["text"]

        _, best = min(allowed, key=rank)
        return {
            "compressed_prompt": best["text"],
            "compressed_tokens": best["tokens"],
            "compression_origin": best["origin"],
            "compression_fault": None,
        }
