"""Made run directories: one builder, and the smallest run made with it.

`MadeRun` writes a run directory with the writers of `ray_pipeline.rundir`, without Ray and without
models. The small run has eight rows in two units:

source + tidy     tidy drops texts with "spam" (its own values before that are nowhere)
ask               rewrites the text with a model; fails texts with "boom"
augment           makes a second row of every row
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ray_pipeline.core.hashing import set_digest
from ray_pipeline.core.rows import (
    created_row_id,
    drop,
    fail,
    kept,
    set_column,
    source_row_id,
    with_envelope,
)
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import LlmUsage, StageAccount, total
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.ledger import Done, Ledger, LedgerEntry, Status
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.responses import Journal, Response
from ray_pipeline.rundir.units import Unit, unit_id, write_units

FILE_ID = "f" * 32
ENVIRONMENT = {
    "python": "3.11.2",
    "cpus": 2,
    "processor": "abacus",
    "memory_gib": 1,
    "seed": 7,
    "packages": {"ray": "2.60.0", "pyarrow": "26.0.1"},
}


class MadeRun:
    """A run directory under construction.

    Make units with `add_unit`, commit their rows after each segment with `commit`, then `finish`;
    `add_artifact_stage` adds stages that make files and pass rows through. Change `ledger` or
    `accounts` afterwards and `save` again to tell another story.

    Args:
        folder: where to.
        name: of the run.
        segments: names of the stages by segment, in order.
        config: ``config.yaml``.
        uri: the source's file, and its format in the end of the name.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        segments: Sequence[Sequence[str]],
        config: Mapping[str, Any],
        uri: str = "data/in.csv",
    ) -> None:
        self.storage = Storage(folder)
        self.segments = segments
        self.uri = uri
        self.units: list[Unit] = []
        self.accounts: dict[str, StageAccount] = {}
        self.ledger = Ledger(name, seconds=73.0)
        self.metrics: dict[str, Any] = {}
        self._committed: dict[str, list[list[StageAccount]]] = {
            stages[-1]: [] for stages in segments
        }
        #: Digests of the units' rows: after the last segment, and after each stage.
        self._digests: dict[str, str] = {}
        self._rows: defaultdict[str, set[str]] = defaultdict(set)
        self.write_config(config)
        self.storage.write_bytes("environment.json", orjson.dumps(ENVIRONMENT))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml``."""
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self.storage.write_bytes("config.yaml", text.encode())

    def write_metrics(self) -> None:
        """Write ``metrics.json`` from `metrics`."""
        self.storage.write_bytes("metrics.json", orjson.dumps(self.metrics))

    def folder(self, stage: str) -> str:
        """Where a stage's files are, relative to the run directory."""
        stages = [name for names in self.segments for name in names]
        stages += [entry.account.name for entry in self.ledger.entries]
        return f"stages/{list(dict.fromkeys(stages)).index(stage):02d}-{stage}"

    def row_id(self, position: int) -> str:
        """Id of a row of the source."""
        return source_row_id(FILE_ID, position)

    def add_unit(self, rows: int, source: str = "") -> Unit:
        """The next rows of the source; `source`: its name in a run with named sources."""
        first = sum(unit.rows for unit in self.units)
        kind = self.uri.rpartition(".")[2]
        unit = Unit(unit_id(FILE_ID, first, rows), self.uri, kind, FILE_ID, 0, first, rows, source)
        self.units.append(unit)
        return unit

    def commit(self, unit: Unit, rows: pa.Table, accounts: Sequence[StageAccount]) -> None:
        """Commit a unit's rows after a segment; `accounts` are of its stages, in order."""
        stage = accounts[-1].name
        for account in accounts:
            account.set_source(unit.source)
        self._committed[stage].append(list(accounts))
        info = write_part(
            self.storage,
            part_path(self.folder(stage), unit.unit_id),
            rows,
            fingerprint=f"print-{stage}",
            input_digest=self._digests.get(unit.unit_id, unit.unit_id),
            accounts=list(accounts),
        )
        self._digests[unit.unit_id] = info.digest
        self._rows[stage].add(f"{unit.unit_id}:{info.digest}")

    def finish(self) -> MadeRun:
        """Write the units and the account; segments without a part are left out of it."""
        for names in self.segments:
            parts = self._committed[names[-1]]
            if self.units and not parts:
                continue
            accounts = total(list(names), parts)
            for account in accounts:
                self._enter(account)
            if len(parts) == len(self.units):
                self._write_done(names[-1], accounts)
        write_units(self.storage, self.units)
        return self.save()

    def add_artifact_stage(
        self, stage: str, figures: Mapping[str, Any] | None = None, **counts: int
    ) -> None:
        """Add a stage that passes all rows through.

        Args:
            stage: its name.
            figures: its figures in ``metrics.json``; None: it makes no files.
            counts: its counters.
        """
        rows = self.ledger.entries[-1].account.kept
        account = StageAccount(stage, rows_in=rows, kept=rows, counts=dict(counts), seconds=2.0)
        self._enter(account)
        self._write_done(stage, [account])
        self.storage.write_bytes(f"{self.folder(stage)}/identity", b"of the rows")
        if figures is not None:
            self.metrics[stage] = figures
            self.write_metrics()

    def save(self, status: Status = "succeeded", message: str | None = None) -> MadeRun:
        """Write the ledger."""
        self.ledger.status, self.ledger.message = status, message
        self.ledger.save(self.storage)
        return self

    def _enter(self, account: StageAccount) -> None:
        self.accounts[account.name] = account
        index = len(self.ledger.entries)
        self.ledger.entries.append(LedgerEntry(index, f"print-{account.name}", account))

    def _write_done(self, stage: str, accounts: Sequence[StageAccount]) -> None:
        digest = set_digest(self._rows[stage])
        done = Done(f"print-{stage}", "input", digest, len(self.units), list(accounts))
        done.save(self.storage, self.folder(stage))


TEXTS = ["one", "two spam", "three", "four boom", "five", "six spam", "seven", "eight"]
SEGMENTS = (("source", "tidy"), ("ask",), ("augment",))
FOLDERS = {"tidy": "stages/01-tidy", "ask": "stages/02-ask", "augment": "stages/03-augment"}
CONFIG = {
    "name": "made-run",
    "seed": 7,
    "llms": {
        "writer": {"model": "tiny-writer", "usd_per_million": {"prompt": 1.0, "completion": 2.0}}
    },
    "stages": {"ask": {"llm": "writer"}},
}


def made_run(
    folder: str,
    texts: Sequence[str] = TEXTS,
    ask_units: int | None = None,
    sources: Sequence[str] = (),
) -> MadeRun:
    """Write the small run.

    Args:
        folder: where to.
        texts: of the source's rows; four make a unit.
        ask_units: only as many units get beyond ``tidy``; None: all.
        sources: names of sources, for one unit after the other; none: the source has no name.
    """
    run = MadeRun(folder, "made", SEGMENTS, CONFIG)
    for number, first in enumerate(range(0, len(texts), 4)):
        source = sources[number % len(sources)] if sources else ""
        unit = run.add_unit(len(texts[first : first + 4]), source)
        rows = _tidy(run, unit, texts[first : first + 4])
        if ask_units is None or number < ask_units:
            _augment(run, unit, kept(_ask(run, unit, kept(rows))))
    return run.finish()


def _tidy(run: MadeRun, unit: Unit, texts: Sequence[str]) -> pa.Table:
    ids = [run.row_id(unit.first_row + i) for i in range(len(texts))]
    read = with_envelope(pa.table({"text": pa.array(texts, pa.string())}), ids)
    rows = drop(read, pc.match_substring(read["text"], "spam"), "tidy:spam: it says so")
    rows = _left_at(rows, "tidy")
    source = StageAccount.of("source", read, read)
    tidy = StageAccount.of("tidy", read, rows)
    tidy.counts, tidy.seconds = {"looked at": len(texts)}, 0.25
    run.commit(unit, rows, [source, tidy])
    return rows


def _ask(run: MadeRun, unit: Unit, rows: pa.Table) -> pa.Table:
    journal = Journal(run.storage, "ask", unit.unit_id)
    usage = LlmUsage()
    texts = []
    for text, row_id in zip(rows["text"].to_pylist(), rows["row_id"].to_pylist(), strict=True):
        answer = "!" if "boom" in text else f"{text}, rewritten"
        response = Response(answer, "stop", 10, 3, cost_usd=0.25)
        journal.append(f"key-{row_id}", row_id, "tiny-writer", response)
        if "boom" in text:
            journal.reject(f"key-{row_id}")
        usage.add(LlmUsage(1, 0, 0, 10, 3, 0, 0.25))
        texts.append(text if "boom" in text else answer)
    journal.close()
    out = set_column(rows, "original_text", rows["text"])
    out = set_column(out, "text", pa.array(texts, pa.string()))
    out = fail(out, pc.match_substring(out["text"], "boom"), "llm:unusable: too short")
    out = _left_at(out, "ask")
    account = StageAccount.of("ask", rows, out)
    account.llm, account.seconds = usage, 12.0
    run.commit(unit, out, [account])
    return out


def _augment(run: MadeRun, unit: Unit, rows: pa.Table) -> None:
    ids = rows["row_id"].to_pylist()
    created = set_column(rows, "parent_id", rows["row_id"])
    new_ids = pa.array([created_row_id(i, "augment", 0) for i in ids], pa.string())
    created = set_column(created, "row_id", new_ids)
    created = set_column(created, "text", pc.utf8_upper(rows["text"]))
    out = pa.concat_tables([rows, created], promote_options="default")
    run.commit(unit, out, [StageAccount.of("augment", rows, out)])


def _left_at(rows: pa.Table, stage: str) -> pa.Table:
    left = pc.not_equal(rows["status"], "kept")
    return set_column(rows, "stage", pc.if_else(left, stage, rows["stage"]))
