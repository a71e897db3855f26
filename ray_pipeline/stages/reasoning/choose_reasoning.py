"""Which reasoning a pair is trained on: its first thoughts, a reflection, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import drop, fail, set_column
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.reasoning.reflect import ACCEPTED, ANALYSIS, IMPROVED, REFLECTION
from ray_pipeline.stages.reasoning.think import SPLIT_FILES, Think
from ray_pipeline.stages.reasoning.validate_pairs import HYPOTHESIS, LABEL, PAIR, PREMISE

THOUGHTS, REFLECTIONS = "thoughts", "reflection"
_BLIND = ("blind_label", "blind_label_alone", "blind_label_thoughts")


class ChooseReasoning(MapStage):
    """Writes ``reasoning`` and its ``origin``: ``thoughts`` that were right, or a ``reflection``.

    A training or validation row whose prediction was wrong and that has no accepted reflection
    fails with the history of its tries, or is dropped. Test rows stay as they are: right ones with
    their thoughts, wrong ones without a reasoning. Rows that nobody was asked about have none.

    Exports ``train_reflections.json`` and ``dev_reflections.json``, and ``suspected_labels.csv``:
    pairs whose label the first prediction, the second model and the blind reader all contradict.
    """

    name = "choose-reasoning"
    writes = {"reasoning": pa.string(), "origin": pa.string(), "label_is_suspected": pa.bool_()}

    class Config(StageConfig):
        unsolved: Literal["fail", "drop"] = Field(
            "fail",
            description="what happens to training and validation rows without a reasoning that "
            "leads to their label: they fail (`budget.max_failed_rows` counts them), or are "
            "dropped; either way the reason has the history of their tries",
        )

    config: Config

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The pair, its thoughts, its reflection and the blind reader's labels."""
        columns = {**PAIR, LABEL: pa.string(), SPLIT: pa.string(), **REFLECTION}
        columns |= {name: Think.writes[name] for name in ("think_state", "thoughts")}
        columns |= {"predicted_label": pa.string(), "think_error": pa.string()}
        return {**columns, **dict.fromkeys(_BLIND, pa.string())}

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Choose a reasoning for each row, and mark those without one."""
        found = [_chosen(row) for row in rows.select(list(self.reads)).to_pylist()]
        reasons = pa.array([reason for _, _, _, reason in found], pa.string())
        for at, (name, kind) in enumerate(self.writes.items()):
            rows = set_column(rows, name, pa.array([each[at] for each in found], kind))
        for _, origin, suspected, reason in found:
            if origin is not None:
                counts[f"origin: {origin}"] += 1
            counts["labels suspected"] += suspected
            counts["without a reasoning"] += reason is not None
        mark = fail if self.config.unsolved == "fail" else drop
        return mark(rows, pc.is_valid(reasons), reasons)

    def exports(self) -> Mapping[str, Callable[[pa.Table], pa.Table]]:
        """The reflections of each split, and the pairs whose label is suspected."""
        reflections = {
            f"{SPLIT_FILES[split]}_reflections.json": _reflected(split)
            for split in ("train", "validation")
        }
        return {**reflections, "suspected_labels.csv": _suspected}


def _chosen(row: Mapping[str, Any]) -> tuple[str | None, str | None, bool, str | None]:
    """Reasoning, origin, whether the label is suspected, and why the row has no reasoning."""
    if row["think_state"] != "asked":
        return None, None, False, None
    if row["predicted_label"] == row[LABEL]:
        return row["thoughts"], THOUGHTS, False, None
    history = orjson.loads(row["reflection_history"] or "[]")
    if row["reflection_state"] == ACCEPTED:
        return row[IMPROVED], REFLECTIONS, False, None
    if row[SPLIT] not in SPLIT_FILES or row[SPLIT] == "test":
        return None, None, False, None
    suspected = _is_suspected(row, history)
    if not history:
        what = f"predicted {row['predicted_label'] or 'no label'}"
        return None, None, suspected, f"reflection:none: {what}, and nothing reflected on it"
    tries = f"{len(history)} {'try' if len(history) == 1 else 'tries'}"
    told = "; ".join(f"try {each['try']}: {each.get('rejected', 'unchecked')}" for each in history)
    return None, None, suspected, f"reflection:rejected: {tries}: {told}"[:1_500]


def _is_suspected(row: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two models and a blind reader contradict the label.

    The first model predicted another one; the reader gives another one to the pair alone; and the
    second model objected to the label that it was told, or could not find a reasoning that leads
    the reader to it.
    """
    alone, with_reasoning = row["blind_label_alone"], row["blind_label"]
    objected = any(each.get("label") not in (None, row[LABEL]) for each in history)
    second = objected or (with_reasoning is not None and with_reasoning != row[LABEL])
    is_alone_against = alone is not None and alone != row[LABEL]
    return row["predicted_label"] is not None and is_alone_against and second


def _reflected(split: str) -> Callable[[pa.Table], pa.Table]:
    columns = {name: name for name in (PREMISE, HYPOTHESIS, "thoughts", "predicted_label")}
    columns |= {LABEL: "true_label", ANALYSIS: ANALYSIS, IMPROVED: IMPROVED}
    columns |= {"reflection_state": "state", "reflection_tries": "tries"}
    columns |= {"reflection_model": "model", "row_id": "row_id", "reflection_history": "history"}

    def chosen(rows: pa.Table) -> pa.Table:
        rows = rows.filter(
            pc.and_(pc.equal(rows[SPLIT], split), pc.is_valid(rows["reflection_state"]))
        )
        return rows.select(list(columns)).rename_columns(list(columns.values()))

    return chosen


def _suspected(rows: pa.Table) -> pa.Table:
    columns = ["row_id", *PAIR, LABEL, "predicted_label", *_BLIND, SPLIT, "reflection_history"]
    return rows.filter(rows["label_is_suspected"]).select(columns)
