"""A synthetic run of question-answer rows with all the columns that the report shows.

source, clean-text, embed, find-outliers, judge-outliers, deduplicate, augment-formal,
augment-casual, augment-typos, accept-paraphrases: each its own segment. Whatever a stage decides
depends on the row's own position.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from support.made_run import FILE_ID, MadeRun

from ray_pipeline.core.rows import ENVELOPE, KEPT, created_row_id, source_row_id
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.units import Unit

Row = dict[str, Any]
#: Changes a row after a stage, before it is written.
ChangeRow = Callable[[str, Row], None]

STYLES = ("formal", "casual", "typos")
STAGES = (
    "source",
    "clean-text",
    "embed",
    "find-outliers",
    "judge-outliers",
    "deduplicate",
    *(f"augment-{style}" for style in STYLES),
    "accept-paraphrases",
)
DIMENSIONS = 24
CONFIG = {
    "name": "made-qa",
    "seed": 7,
    "source": {"path": "data/qa.csv", "columns": {"question": "Question", "answer": "Answer"}},
    "llms": {"writer": {"model": "tiny-writer", "usd_per_million": {"prompt": 1, "completion": 2}}},
    "stages": {f"augment-{style}": {"llm": "writer"} for style in STYLES},
}
TOPICS = {
    "the ledger": "accounts debits credits balances entries periods totals",
    "the heart": "valves blood rhythm pulse vessels oxygen pressure",
    "a volcano": "lava ash magma craters eruptions gases plates",
    "the violin": "strings bows notes tuning varnish wood resonance",
    "a glacier": "ice moraine valleys melting snow crevasses sediment",
}
_STRINGS = ("question", "answer", "outlier_rule", "outlier_verdict", "duplicate_of")
_STRINGS += ("same_question_group", "same_answer_group", "version", "source_question")
_TYPES = dict.fromkeys((*_STRINGS, "source_answer"), pa.string()) | {
    "embedding": pa.list_(pa.float16()),
    "outlier_cluster": pa.int32(),
    "outlier_score": pa.float32(),
    "duplicate_similarity": pa.float32(),
    "similarity": pa.float32(),
}
#: Columns that each stage adds.
_ADDS = {
    "source": ("question", "answer"),
    "embed": ("embedding",),
    "find-outliers": ("outlier_rule", "outlier_cluster", "outlier_score"),
    "judge-outliers": ("outlier_verdict",),
    "deduplicate": (
        "duplicate_of",
        "duplicate_similarity",
        "same_question_group",
        "same_answer_group",
    ),
    "augment-formal": ("version", "source_question", "source_answer", "similarity"),
}


def _drop(row: Row, reason: str) -> None:
    if row["status"] == KEPT:
        row["status"], row["reason"] = "dropped", reason


def _clean(rows: list[Row]) -> list[Row]:
    for row in rows:
        if row["position"] % 97 == 50:
            _drop(row, "text:empty: nothing is left")
    return []


def _embed(rows: list[Row]) -> list[Row]:
    for row in rows:
        numbers = np.random.default_rng(row["position"])
        centre = np.random.default_rng(1000 + row["topic"]).normal(size=DIMENSIONS)
        is_far = row["position"] % 41 in (7, 8)
        vector = numbers.normal(size=DIMENSIONS) * (3 if is_far else 0.35) + centre * (not is_far)
        row["embedding"] = (vector / np.linalg.norm(vector)).astype(np.float16).tolist()
    return []


def _find_outliers(rows: list[Row]) -> list[Row]:
    for row in rows:
        at = row["position"] % 41
        row["outlier_cluster"] = -1 if at in (7, 8, 9) else row["topic"]
        row["outlier_score"] = 0.9 if at in (7, 8) else 0.1
        if row["position"] % 83 == 20:
            row["outlier_rule"] = "refers_to_chapter"
            _drop(row, "outlier:rule: refers_to_chapter")
        elif at == 7:
            _drop(row, "outlier:cluster")
    return []


def _judge(rows: list[Row]) -> list[Row]:
    for row in rows:
        if row["outlier_cluster"] == -1:
            row["outlier_verdict"] = "unrelated" if row["position"] % 41 == 8 else "related"
            if row["outlier_verdict"] == "unrelated":
                _drop(row, "outlier:judge: unrelated")
    return []


def _deduplicate(rows: list[Row]) -> list[Row]:
    for row in rows:
        position = row["position"]
        if position % 30 == 29:
            row["duplicate_of"] = source_row_id(FILE_ID, position - 10)
            row["duplicate_similarity"] = 1.0
            _drop(row, "duplicate:exact")
        elif position % 30 == 28:
            # One large group, across units.
            row["duplicate_of"] = source_row_id(FILE_ID, 3)
            row["duplicate_similarity"] = 0.93 + position % 7 / 100
            _drop(row, "duplicate:near")
        elif position % 25 in (3, 4):
            row["same_question_group"] = f"q{position // 25}"
    return []


def _augment(style: str) -> Callable[[list[Row]], list[Row]]:
    def work(rows: list[Row]) -> list[Row]:
        created = []
        for row in rows:
            row.setdefault("version", "original")
            if row["version"] != "original":
                continue
            original = str(row["question"])
            question = {
                "formal": f"Kindly explain: {original.lower()}",
                "casual": f"Hey, {original.lower()}",
                "typos": original.replace("about", "abuot"),
            }[style]
            created.append(
                row
                | {
                    "row_id": created_row_id(row["row_id"], f"augment-{style}", 0),
                    "parent_id": row["row_id"],
                    "version": style,
                    "question": question,
                    "source_question": original,
                    "source_answer": row["answer"],
                }
            )
        return created

    return work


def _accept(rows: list[Row]) -> list[Row]:
    reasons = ("meaning", "copy", "too_long", "gives_answer")
    for row in rows:
        if row["version"] == "original":
            continue
        at = row["position"] * 3 + STYLES.index(row["version"])
        row["similarity"] = 0.6 + at * 7 % 40 / 100
        if row["version"] != "typos" and at % 5 == 0:
            row["similarity"] = 0.2 + at % 40 / 100
            _drop(row, f"paraphrase:{reasons[at // 5 % 4]}: similarity {row['similarity']:.2f}")
    return []


_STAGE_WORK: dict[str, Callable[[list[Row]], Iterable[Row]]] = {
    "clean-text": _clean,
    "embed": _embed,
    "find-outliers": _find_outliers,
    "judge-outliers": _judge,
    "deduplicate": _deduplicate,
    "accept-paraphrases": _accept,
    **{f"augment-{style}": _augment(style) for style in STYLES},
}


def made_qa_run(
    folder: str,
    rows: int = 300,
    unit_rows: int = 64,
    until: str = STAGES[-1],
    without: Sequence[str] = (),
    change: ChangeRow = lambda stage, row: None,
    seed: int = 3,
    types: Mapping[str, pa.DataType] | None = None,
) -> MadeRun:
    """Write the run.

    Args:
        folder: where to.
        rows: of the source.
        unit_rows: rows of a unit.
        until: the last stage that ran.
        without: columns to leave out of every part.
        change: called with every row before it is written, after each stage.
        seed: of the texts: another one makes other words in the same rows.
        types: of columns that are to be of another type than the stages write.
    """
    stages = STAGES[: STAGES.index(until) + 1]
    run = MadeRun(folder, "made-qa", [[stage] for stage in stages], CONFIG, "data/qa.csv")
    schemas = {stage: _schema(stage, without, _TYPES | dict(types or {})) for stage in stages}
    draw = random.Random(seed)
    for first in range(0, rows, unit_rows):
        unit = run.add_unit(min(unit_rows, rows - first))
        current = [_source(draw, position) for position in range(first, first + unit.rows)]
        for stage in stages:
            current = _run(run, unit, stage, current, schemas[stage], change)
    return run.finish()


def _schema(stage: str, without: Sequence[str], types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Columns of the rows after a stage."""
    names = [
        name
        for earlier in STAGES[: STAGES.index(stage) + 1]
        for name in _ADDS.get(earlier, ())
        if name not in without
    ]
    return pa.schema([pa.field(name, types[name]) for name in names] + list(ENVELOPE))


def _run(
    run: MadeRun, unit: Unit, stage: str, came: list[Row], schema: pa.Schema, change: ChangeRow
) -> list[Row]:
    """Commit a unit after a stage; the rows that it kept."""
    rows = [dict(row) for row in came]
    rows += _STAGE_WORK.get(stage, lambda rows: [])(rows)
    for row in rows:
        change(stage, row)
        if row["status"] != KEPT:
            row["stage"] = stage
    table = pa.Table.from_pylist(rows, schema)
    # Their ids alone: their columns may have been of other types.
    ids = pa.table({"row_id": pa.array([row["row_id"] for row in came], pa.string())})
    account = StageAccount.of(stage, ids, table)
    account.seconds = 0.002 * len(came)
    if stage.startswith(("augment-formal", "augment-casual", "judge")):
        asked = account.created or len(came)
        cost = 2e-6 * asked * 60
        account.llm = LlmUsage(asked, 0, asked // 20, asked * 60, asked * 25, 0, cost)
        account.seconds = 0.4 * asked
    run.commit(unit, table, [account])
    return [row for row in rows if row["status"] == KEPT]


def _source(draw: random.Random, position: int) -> Row:
    topics = list(TOPICS)
    topic = topics[position % len(topics)]
    words = draw.sample(TOPICS[topic].split(), 4)
    # Every 30th row repeats the one ten before; every 31st asks its question once more.
    origin = position - 10 if position % 30 == 29 else position
    return {
        "topic": position % len(topics),
        "question": f"What do {words[0]} and {words[1]} tell about {topic}, case {origin}?",
        "answer": f"They show how {words[2]} and {words[3]} change. " * (1 + position % 4),
        "row_id": source_row_id(FILE_ID, position),
        "parent_id": None,
        "status": KEPT,
        "stage": None,
        "reason": None,
        "position": position,
    }
