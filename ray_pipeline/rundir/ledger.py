"""``ledger.json`` and ``done.json``: the accounts of a run and of a segment on storage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.redaction import redacted_data
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.checksums import Damaged, DamagedFile, checked_json, json_with_checksum
from ray_pipeline.rundir.layout import DONE, LEDGER_FILE

Status = Literal["running", "succeeded", "failed", "interrupted", "budget_exhausted"]


@dataclass
class LedgerEntry:
    """One stage's entry in the ledger."""

    index: int
    fingerprint: str
    account: StageAccount
    reused: bool = False
    #: Whether the stage has processed all its rows. If not, the account's rows are those of the
    #: committed units, and its requests are all that were sent.
    finished: bool = True
    #: Rows that this stage has not processed yet, of those that the stage before it kept.
    rows_waiting: int = 0

    def to_json(self) -> dict[str, Any]:
        """The entry as plain data, for ``ledger.json``."""
        data = self.account.to_json()
        data["seconds"] = round(data["seconds"], 3)
        head = {"index": self.index, "name": data.pop("name"), "fingerprint": self.fingerprint}
        state: dict[str, Any] = {"reused": self.reused}
        if not self.finished:
            state |= {"finished": False, "rows_waiting": self.rows_waiting}
        return {**head, **state, **data}


@dataclass
class Ledger:
    """The accounts of all stages of a run, and how the run ended."""

    run: str
    status: Status = "running"
    #: Why the run ended, if it did not succeed.
    message: str | None = None
    entries: list[LedgerEntry] = field(default_factory=list)
    seconds: float = 0.0
    #: Seconds of wall time by phase of the run.
    phases: dict[str, float] = field(default_factory=dict)
    #: Requests on storage about stages or units that this run does not have: they were sent for an
    #: earlier version of the job or of its source. None: there are none.
    other: LlmUsage | None = None
    #: While it runs: a line for each thing outside the run that it waits for.
    waiting: list[str] = field(default_factory=list)
    #: What the user should know of the source's files, a sentence each.
    notes: list[str] = field(default_factory=list)
    #: What the reader of the exported files should know, a sentence each.
    export_notes: list[str] = field(default_factory=list)
    #: Files that were not what was written, and what became of them, a sentence each.
    damages: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's wall time to a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.phases[phase] = round(self.phases.get(phase, 0.0) + spent, 3)

    def by_source(self) -> dict[str, dict[str, int]]:
        """Row counts of each named source over all stages; empty in a run without named sources.

        ``rows_in`` counts the rows read and ``kept`` those that the last stage kept. The counts
        balance as those of a `StageAccount` do.
        """
        accounts = [entry.account.sources for entry in self.entries]
        totals = {}
        for source in accounts[0] if accounts else ():
            rows = [account[source] for account in accounts if source in account]
            totals[source] = {
                "rows_in": rows[0]["rows_in"],
                **{key: sum(r[key] for r in rows) for key in ("created", "dropped", "failed")},
                "kept": rows[-1]["kept"],
            }
        return totals

    def save(self, storage: Storage) -> None:
        """Write ``ledger.json``."""
        told = {
            "run": self.run,
            "status": self.status,
            "message": self.message,
            "seconds": round(self.seconds, 3),
            "phases": self.phases,
            "waiting": self.waiting,
            "notes": self.notes,
            "export_notes": self.export_notes,
        }
        data = redacted_data(told) | {
            "stages": [entry.to_json() for entry in self.entries],
        }
        if self.damages:
            data["damages"] = redacted_data(self.damages)
        if self.other is not None:
            data["other_requests"] = asdict(self.other)
        storage.write_bytes(LEDGER_FILE, json_with_checksum(data))

    def check(self) -> None:
        """Check that no row is missing between or within stages.

        Raises:
            RunError: a stage's row counts do not add up, or a stage did not read all the rows
                that the stage before it kept.
        """
        for entry in self.entries:
            if not entry.account.balances:
                raise RunError(
                    f"the account of {entry.account.name!r} does not balance: {entry.account}"
                )
        for before, after in zip(self.entries, self.entries[1:], strict=False):
            if after.account.rows_in != before.account.kept:
                raise RunError(
                    f"{before.account.name!r} kept {before.account.kept} rows, but "
                    f"{after.account.name!r} read {after.account.rows_in}"
                )
            for source, rows in after.account.sources.items():
                if rows["rows_in"] != (kept := before.account.sources[source]["kept"]):
                    raise RunError(
                        f"{before.account.name!r} kept {kept} rows of the source {source}, but "
                        f"{after.account.name!r} read {rows['rows_in']}"
                    )


@dataclass(frozen=True)
class Done:
    """The content of a segment's ``done.json``: it is complete for these units and this input."""

    fingerprint: str
    #: Digest over the units and the digests of the parts that were read.
    input_digest: str
    #: Digest over the digests of its parts.
    digest: str
    units: int
    accounts: list[StageAccount]
    #: What each stage's fingerprint was made of, by its name; empty in runs of earlier versions.
    identities: dict[str, Any] = field(default_factory=dict)
    #: Of a segment that makes files: digest of all rows before it, whichever of them it reads;
    #: empty in runs of earlier versions.
    rows_digest: str = ""

    def save(self, storage: Storage, folder: str) -> None:
        """Write ``done.json``. Everything else of the segment must be on storage before."""
        data = {
            "fingerprint": self.fingerprint,
            "input_digest": self.input_digest,
            "digest": self.digest,
            "units": self.units,
            "accounts": [account.to_json() for account in self.accounts],
            "identities": redacted_data(self.identities),
            "rows_digest": self.rows_digest,
        }
        storage.write_bytes(f"{folder}/{DONE}", json_with_checksum(data))

    @classmethod
    def load(cls, storage: Storage, folder: str) -> Done | None:
        """Read a segment's ``done.json``; None where there is none.

        Raises:
            DamagedFile: it is not what was written.
        """
        path = f"{folder}/{DONE}"
        raw = storage.read_bytes(path)
        if raw is None:
            return None
        known = {item.name for item in fields(cls)}
        try:
            data = {name: value for name, value in checked_json(raw).items() if name in known}
            data["accounts"] = [StageAccount.from_json(account) for account in data["accounts"]]
            return cls(**data)
        except (Damaged, KeyError, TypeError) as error:
            how = str(error) if isinstance(error, Damaged) else "it lacks what belongs in it"
            raise DamagedFile(
                f"{storage.uri(path)} is damaged: {how}. Run again: it is written again from the "
                "footers of the parts beside it",
                how,
            ) from error


def parse_ledger(raw: bytes, where: str) -> Ledger:
    """The ledger from its JSON; keys that this version does not know are ignored.

    Args:
        raw: the content of ``ledger.json``.
        where: its path or URI, for messages.

    Raises:
        UserError: it is not the ledger of a run.
    """
    try:
        data = checked_json(raw)
        entries = [_entry(stage) for stage in data["stages"]]
        status: Status = data["status"]
    except Damaged as error:
        raise UserError(f"{where} is damaged: {error}. Run again: it is written again") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: not a ledger of a run: {error!r}") from None
    if status not in get_args(Status):
        raise UserError(f"{where}: unknown status {status!r}")
    notes = {name: data.get(name, []) for name in ("notes", "export_notes", "waiting", "damages")}
    other, seconds = _usage(data.get("other_requests")), data.get("seconds", 0.0)
    message = data.get("message")
    return Ledger(data["run"], status, message, entries, seconds, other=other, **notes)


def _entry(stage: dict[str, Any]) -> LedgerEntry:
    known = {field.name for field in fields(StageAccount)}
    account = StageAccount(**{name: stage[name] for name in known - {"llm"} if name in stage})
    account.llm = _usage(stage.get("llm"))
    return LedgerEntry(
        stage["index"],
        stage.get("fingerprint", ""),
        account,
        reused=bool(stage.get("reused", False)),
        # Ledgers of earlier versions do not say it.
        finished=bool(stage.get("finished", True)),
        rows_waiting=int(stage.get("rows_waiting", 0)),
    )


def _usage(data: dict[str, Any] | None) -> LlmUsage | None:
    if data is None:
        return None
    return LlmUsage(**{f.name: data[f.name] for f in fields(LlmUsage) if f.name in data})
