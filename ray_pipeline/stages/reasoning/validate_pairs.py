"""Pairs of a premise and a hypothesis with a label of a fixed set, or a reason why they are not."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.stage import MapStage, StageConfig

PREMISE, HYPOTHESIS, LABEL = "premise", "hypothesis", "label"
#: The columns of a pair, with their types.
PAIR = {PREMISE: pa.string(), HYPOTHESIS: pa.string()}
#: The mark with which SNLI and MultiNLI say that the annotators did not agree.
NO_AGREEMENT = "-"


class ValidatePairs(MapStage):
    """Drops what is not a pair with a label; writes labels as the configuration spells them.

    A label in another case or with white space around it is the label. A number is a label only
    where ``label_names`` says which: data sets number them differently. ``-`` is SNLI's mark for
    pairs without agreement (``label:no_agreement``). Everything else is ``label:unknown``, with the
    value in the reason. Counts the pairs of each label, and those whose spelling changed.
    """

    name = "validate-pairs"
    reads = {**PAIR, LABEL: pa.string()}
    writes = {LABEL: pa.string()}

    class Config(StageConfig):
        labels: tuple[str, ...] = Field(
            ("entailment", "neutral", "contradiction"),
            min_length=2,
            description="the labels; the order is that of tables and of confusion matrices",
        )
        label_names: dict[str, str] = Field(
            {},
            description="labels by the values that the file has for them, such as "
            "{'0': entailment, '1': neutral, '2': contradiction}; numbers are never guessed",
        )
        max_chars: int = Field(
            4_000, ge=1, description="longest premise or hypothesis, in characters"
        )

        @field_validator("labels")
        @classmethod
        def _are_distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
            if len({label.casefold().strip() for label in labels}) < len(labels):
                raise ValueError("labels must differ by more than case and white space")
            if any(not label.strip() or label != label.strip() for label in labels):
                raise ValueError("labels must not be empty or have white space around them")
            return labels

        @model_validator(mode="after")
        def _names_are_labels(self) -> ValidatePairs.Config:
            if unknown := sorted(set(self.label_names.values()) - set(self.labels)):
                raise ValueError(
                    f"label_names: {', '.join(unknown)} is not among labels: "
                    f"{', '.join(self.labels)}"
                )
            return self

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Check every pair and spell its label as configured."""
        known = {label.casefold(): label for label in self.config.labels}
        known |= {name.strip().casefold(): to for name, to in self.config.label_names.items()}
        columns = [rows[name].to_pylist() for name in (PREMISE, HYPOTHESIS, LABEL)]
        labels: list[str | None] = []
        reasons: list[str | None] = []
        for premise, hypothesis, raw in zip(*columns, strict=True):
            label = known.get((raw or "").strip().casefold())
            reason = self._wrong_pair(premise, hypothesis) or _wrong_label(raw, label)
            labels.append(raw if reason else label)
            reasons.append(reason)
            if reason is None:
                counts[f"{label}"] += 1
                counts["labels respelled"] += label != raw
        rows = set_column(rows, LABEL, pa.array(labels, pa.string()))
        found = pa.array(reasons, pa.string())
        return drop(rows, found.is_valid(), found)

    def _wrong_pair(self, premise: str | None, hypothesis: str | None) -> str | None:
        for name, text in ((PREMISE, premise), (HYPOTHESIS, hypothesis)):
            if not text or not text.strip():
                return f"pair:empty_{name}"
            if len(text) > self.config.max_chars:
                return f"pair:long_{name}: {len(text)} characters"
        return None


def _wrong_label(raw: str | None, label: str | None) -> str | None:
    if label is not None:
        return None
    text = (raw or "").strip()
    if not text:
        return "label:missing"
    if text == NO_AGREEMENT:
        return "label:no_agreement"
    hint = ""
    if text.lstrip("+-").replace(".", "", 1).isdigit():
        hint = "; say which label it is with label_names"
    return f"label:unknown: {text[:80]!r}{hint}"
