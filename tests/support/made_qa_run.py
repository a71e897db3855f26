"""A synthetic run of question-answer rows with all the columns that the report knows.

source, clean-text, embed, find-outliers, judge-outliers, deduplicate, augment-formal,
augment-casual, augment-typos, accept-paraphrases: each its own segment, written with the engine's
own writers, without Ray and without a model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.rows import ENVELOPE, KEPT, created_row_id, source_row_id
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import LlmUsage, StageAccount, total
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.ledger import Ledger, LedgerEntry, Status
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.units import Unit, unit_id

Row = dict[str, Any]

FILE_ID = "e" * 32
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


@dataclass
class MadeQaRun:
    """Makes the directory; change `ledger` and save it again to tell another story."""

    storage: Storage
    without: tuple[str, ...] = ()
    seed: int = 3
    units: list[Unit] = field(default_factory=list)
    accounts: dict[str, StageAccount] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=lambda: Ledger("made-qa"))
    change: Callable[[str, Row], None] = lambda stage, row: None
    #: Types of columns that are not what the stages write.
    types: dict[str, pa.DataType] = field(default_factory=dict)

    def write(self, rows: int, unit_rows: int, until: str | None = None) -> MadeQaRun:
        """Run rows through. Whatever is decided depends on the row's own position."""
        self.random = random.Random(self.seed)
        parts: dict[str, list[list[StageAccount]]] = {}
        last = STAGES.index(until) if until else len(STAGES) - 1
        for first in range(0, rows, unit_rows):
            number = min(unit_rows, rows - first)
            uid = unit_id(FILE_ID, first, number)
            unit = Unit(uid, "data/qa.csv", "csv", FILE_ID, 0, first, number)
            self.units.append(unit)
            current = [self._source(position) for position in range(first, first + number)]
            for stage in STAGES[: last + 1]:
                current = self._run(stage, unit, current, parts.setdefault(stage, []))
        for index, stage in enumerate(STAGES[: last + 1]):
            (account,) = total([stage], parts.get(stage, []))
            self.accounts[stage] = account
            self.ledger.entries.append(LedgerEntry(index, f"print-{stage}", account))
        self._describe()
        return self

    def save(self, status: Status = "succeeded", message: str | None = None) -> MadeQaRun:
        self.ledger.status, self.ledger.message, self.ledger.seconds = status, message, 95.0
        self.ledger.save(self.storage)
        return self

    def _run(
        self, stage: str, unit: Unit, came: list[Row], parts: list[list[StageAccount]]
    ) -> list[Row]:
        rows = [dict(row) for row in came]
        rows += _STAGE_WORK.get(stage, lambda run, rows: [])(self, rows)
        for row in rows:
            self.change(stage, row)
            if row["status"] != KEPT:
                row["stage"] = stage
        table = self._table(stage, rows)
        account = StageAccount.of(stage, len(came), table)
        account.seconds = 0.002 * len(came)
        if stage.startswith(("augment-formal", "augment-casual", "judge")):
            made = account.created or len(came)
            cost = 2e-6 * made * 60
            account.llm = LlmUsage(made, 0, made // 20, made * 60, made * 25, 0, cost)
            account.seconds = 0.4 * made
        parts.append([account])
        folder = f"stages/{STAGES.index(stage):02d}-{stage}"
        write_part(
            self.storage,
            part_path(folder, unit.unit_id),
            table,
            fingerprint=f"print-{stage}",
            input_digest="input",
            accounts=[account],
        )
        return [row for row in rows if row["status"] == KEPT]

    def _table(self, stage: str, rows: list[Row]) -> pa.Table:
        names = [
            name
            for made in STAGES[: STAGES.index(stage) + 1]
            for name in _ADDS.get(made, ())
            if name not in self.without
        ]
        schema = pa.schema(
            [pa.field(name, (_TYPES | self.types)[name]) for name in names] + list(ENVELOPE)
        )
        return pa.Table.from_pylist(rows, schema)

    def _source(self, position: int) -> Row:
        topics = list(TOPICS)
        topic = topics[position % len(topics)]
        words = self.random.sample(TOPICS[topic].split(), 4)
        # Every 30th row repeats the one ten before; every 31st asks its question once more.
        origin = position - 10 if position % 30 == 29 else position
        row: Row = {
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
        return row

    def _describe(self) -> None:
        self.storage.write_bytes("config.yaml", orjson.dumps(CONFIG))
        about = {"python": "3.11.2", "cpus": 2, "processor": "abacus", "memory_gib": 1, "seed": 7}
        packages = {"ray": "2.60.0", "pyarrow": "26.0.1"}
        self.storage.write_bytes("environment.json", orjson.dumps({**about, "packages": packages}))
        example = asdict(Unit("u", "data/qa.csv", "csv", FILE_ID, 0, 0, 0))
        schema = pa.Table.from_pylist([example]).schema
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([asdict(unit) for unit in self.units], schema), sink)
        self.storage.write_bytes("units.parquet", sink.getvalue())


def _drop(row: Row, reason: str) -> None:
    if row["status"] == KEPT:
        row["status"], row["reason"] = "dropped", reason


def _clean(run: MadeQaRun, rows: list[Row]) -> list[Row]:
    for row in rows:
        if row["position"] % 97 == 50:
            _drop(row, "text:empty: nothing is left")
    return []


def _embed(run: MadeQaRun, rows: list[Row]) -> list[Row]:
    for row in rows:
        numbers = np.random.default_rng(row["position"])
        centre = np.random.default_rng(1000 + row["topic"]).normal(size=DIMENSIONS)
        is_far = row["position"] % 41 in (7, 8)
        vector = numbers.normal(size=DIMENSIONS) * (3 if is_far else 0.35) + centre * (not is_far)
        row["embedding"] = (vector / np.linalg.norm(vector)).astype(np.float16).tolist()
    return []


def _find_outliers(run: MadeQaRun, rows: list[Row]) -> list[Row]:
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


def _judge(run: MadeQaRun, rows: list[Row]) -> list[Row]:
    for row in rows:
        if row["outlier_cluster"] == -1:
            row["outlier_verdict"] = "unrelated" if row["position"] % 41 == 8 else "related"
            if row["outlier_verdict"] == "unrelated":
                _drop(row, "outlier:judge: unrelated")
    return []


def _deduplicate(run: MadeQaRun, rows: list[Row]) -> list[Row]:
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


def _augment(style: str) -> Callable[[MadeQaRun, list[Row]], list[Row]]:
    def work(run: MadeQaRun, rows: list[Row]) -> list[Row]:
        made = []
        for row in rows:
            row.setdefault("version", "original")
            if row["version"] != "original":
                continue
            asked = str(row["question"])
            question = {
                "formal": f"Kindly explain: {asked.lower()}",
                "casual": f"Hey, {asked.lower()}",
                "typos": asked.replace("about", "abuot"),
            }[style]
            made.append(
                row
                | {
                    "row_id": created_row_id(row["row_id"], f"augment-{style}", 0),
                    "parent_id": row["row_id"],
                    "version": style,
                    "question": question,
                    "source_question": asked,
                    "source_answer": row["answer"],
                }
            )
        return made

    return work


def _accept(run: MadeQaRun, rows: list[Row]) -> list[Row]:
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


_STAGE_WORK: dict[str, Callable[[MadeQaRun, list[Row]], Iterable[Row]]] = {
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
    until: str | None = None,
    without: tuple[str, ...] = (),
    change: Callable[[str, Row], None] | None = None,
    seed: int = 3,
    types: dict[str, pa.DataType] | None = None,
) -> MadeQaRun:
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
    run = MadeQaRun(Storage(folder), without, seed, types=types or {})
    if change is not None:
        run.change = change
    return run.write(rows, unit_rows, until).save()
