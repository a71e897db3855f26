"""A small run directory, made with the engine's own helpers: two units, three segments.

source + tidy     tidy drops texts with "spam" (its own values before that are nowhere)
ask               rewrites the text with a model; fails texts with "boom"
augment           makes a second row of every row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
from ray_pipeline.rundir.units import Unit, unit_id

FILE_ID = "f" * 32
FOLDERS = {"tidy": "stages/01-tidy", "ask": "stages/02-ask", "augment": "stages/03-augment"}
CONFIG = """\
name: made-run
seed: 7
llms:
  writer: {model: tiny-writer, usd_per_million: {prompt: 1.0, completion: 2.0}}
stages:
  ask: {llm: writer}
"""


@dataclass
class MadeRun:
    """Makes the directory; change `ledger` and save it again to tell another story."""

    storage: Storage
    units: list[Unit] = field(default_factory=list)
    accounts: dict[str, StageAccount] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=lambda: Ledger("made"))

    def write(
        self, texts: Sequence[str], unit_rows: int = 4, ask_units: int | None = None
    ) -> MadeRun:
        """Run the texts through; only the first `ask_units` units get beyond ``tidy``."""
        parts: dict[str, list[list[StageAccount]]] = {name: [] for name in FOLDERS}
        for number, first in enumerate(range(0, len(texts), unit_rows)):
            mine = texts[first : first + unit_rows]
            unit = Unit(
                unit_id(FILE_ID, first, len(mine)),
                "data/in.csv",
                "csv",
                FILE_ID,
                0,
                first,
                len(mine),
            )
            self.units.append(unit)
            rows, accounts = self._tidy(unit, mine)
            parts["tidy"].append(accounts)
            if ask_units is not None and number >= ask_units:
                continue
            rows, accounts = self._ask(unit, kept(rows))
            parts["ask"].append(accounts)
            parts["augment"].append(self._augment(unit, kept(rows)))
        self._account(parts)
        self._describe()
        return self

    def save(self, status: Status = "succeeded", message: str | None = None) -> MadeRun:
        self.ledger.status, self.ledger.message = status, message
        self.ledger.save(self.storage)
        return self

    def row_id(self, position: int) -> str:
        return source_row_id(FILE_ID, position)

    def _tidy(self, unit: Unit, texts: Sequence[str]) -> tuple[pa.Table, list[StageAccount]]:
        ids = [source_row_id(FILE_ID, unit.first_row + i) for i in range(len(texts))]
        read = with_envelope(pa.table({"text": pa.array(texts, pa.string())}), ids)
        rows = drop(read, pc.match_substring(read["text"], "spam"), "tidy:spam: it says so")
        rows = _by(rows, "tidy")
        source = StageAccount.of("source", read.num_rows, read)
        tidy = StageAccount.of("tidy", read.num_rows, rows)
        tidy.counts, tidy.seconds = {"looked at": len(texts)}, 0.25
        return rows, self._commit("tidy", unit, rows, [source, tidy])

    def _ask(self, unit: Unit, rows: pa.Table) -> tuple[pa.Table, list[StageAccount]]:
        journal = Journal(self.storage, "ask", unit.unit_id)
        usage = LlmUsage()
        new = []
        for text, row_id in zip(rows["text"].to_pylist(), rows["row_id"].to_pylist(), strict=True):
            answer = "!" if "boom" in text else f"{text}, rewritten"
            journal.append(
                f"key-{row_id}",
                row_id,
                "tiny-writer",
                Response(answer, "stop", 10, 3, cost_usd=0.25),
            )
            if "boom" in text:
                journal.reject(f"key-{row_id}")
            usage.add(LlmUsage(1, 0, 0, 10, 3, 0, 0.25))
            new.append(text if "boom" in text else answer)
        journal.close()
        out = set_column(rows, "original_text", rows["text"])
        out = set_column(out, "text", pa.array(new, pa.string()))
        out = _by(
            fail(out, pc.match_substring(out["text"], "boom"), "llm:unusable: too short"), "ask"
        )
        account = StageAccount.of("ask", rows.num_rows, out)
        account.llm, account.seconds = usage, 12.0
        return out, self._commit("ask", unit, out, [account])

    def _augment(self, unit: Unit, rows: pa.Table) -> list[StageAccount]:
        ids = rows["row_id"].to_pylist()
        twins = set_column(rows, "parent_id", rows["row_id"])
        made = pa.array([created_row_id(i, "augment", 0) for i in ids], pa.string())
        twins = set_column(twins, "row_id", made)
        twins = set_column(twins, "text", pc.utf8_upper(rows["text"]))
        out = pa.concat_tables([rows, twins], promote_options="default")
        return self._commit("augment", unit, out, [StageAccount.of("augment", rows.num_rows, out)])

    def _commit(
        self, name: str, unit: Unit, rows: pa.Table, accounts: list[StageAccount]
    ) -> list[StageAccount]:
        write_part(
            self.storage,
            part_path(FOLDERS[name], unit.unit_id),
            rows,
            fingerprint=f"print-{name}",
            input_digest="input",
            accounts=accounts,
        )
        return accounts

    def _account(self, parts: dict[str, list[list[StageAccount]]]) -> None:
        index = 0
        for name, units in parts.items():
            names = ["source", "tidy"] if name == "tidy" else [name]
            for account in total(names, units) if units or not self.units else []:
                self.ledger.entries.append(LedgerEntry(index, f"print-{account.name}", account))
                self.accounts[account.name] = account
                index += 1
            done = Done(f"print-{name}", "input", "digest", len(units), total(names, units))
            if len(units) == len(self.units):
                done.save(self.storage, FOLDERS[name])
        self.ledger.seconds = 73.0

    def _describe(self) -> None:
        self.storage.write_bytes("config.yaml", CONFIG.encode())
        about = {"python": "3.11.2", "cpus": 2, "processor": "abacus", "memory_gib": 1, "seed": 7}
        self.storage.write_bytes(
            "environment.json", orjson.dumps({**about, "packages": {"ray": "2.60.0"}})
        )
        sink = pa.BufferOutputStream()
        schema = pa.Table.from_pylist([asdict(_EXAMPLE)]).schema
        pq.write_table(pa.Table.from_pylist([asdict(unit) for unit in self.units], schema), sink)
        self.storage.write_bytes("units.parquet", sink.getvalue())


_EXAMPLE = Unit("u", "data/in.csv", "csv", FILE_ID, 0, 0, 0)


def _by(rows: pa.Table, stage: str) -> pa.Table:
    marked = pc.not_equal(rows["status"], "kept")
    return set_column(rows, "stage", pc.if_else(marked, stage, rows["stage"]))


TEXTS = ["one", "two spam", "three", "four boom", "five", "six spam", "seven", "eight"]


def made_run(folder: str, texts: Sequence[str] = TEXTS, ask_units: int | None = None) -> MadeRun:
    return MadeRun(Storage(folder)).write(texts, ask_units=ask_units).save()
