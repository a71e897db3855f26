"""The account of a stage that has not finished, from what its units left on storage.

Committed units are counted from their footers. Requests about the other units are counted from the
journals of responses, which hold all that was sent and paid for, however the run ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import LlmUsage, StageAccount, total
from ray_pipeline.rundir.layout import RESPONSES
from ray_pipeline.rundir.ledger import LedgerEntry
from ray_pipeline.rundir.parts import PartInfo
from ray_pipeline.rundir.responses import recorded_units


def unfinished_accounts(
    storage: Storage, names: Sequence[str], infos: Mapping[str, PartInfo | None], asks: bool
) -> list[StageAccount]:
    """The accounts of the stages of a segment that has not finished.

    Args:
        storage: the run directory.
        names: names of the segment's entries in the ledger, in order.
        infos: the footer of each unit's part; None: the unit is not committed.
        asks: whether the last stage asks a language model.

    Raises:
        RunError: storage cannot be read.
    """
    accounts = total(names, (info.accounts for info in infos.values() if info is not None))
    if asks:
        usage = accounts[-1].llm = accounts[-1].llm or LlmUsage()
        waiting = [unit_id for unit_id, info in infos.items() if info is None]
        for requests in recorded_units(storage, names[-1], waiting).values():
            usage.add(requests)
    return accounts


def set_rows_waiting(entries: Sequence[LedgerEntry], source_rows: int) -> None:
    """Set `rows_waiting` of the entries that are not finished.

    Args:
        entries: the ledger's entries, in order.
        source_rows: rows of the source.
    """
    before = source_rows
    for entry in entries:
        if not entry.finished:
            entry.rows_waiting = max(0, before - entry.account.rows_in)
        before = entry.account.kept


def other_requests(
    storage: Storage, stages: Collection[str], unit_ids: Collection[str]
) -> LlmUsage | None:
    """Requests on storage about stages or units that a run does not have; None: there are none.

    They were sent for an earlier version of the job or of its source.

    Args:
        storage: the run directory.
        stages: the stages in the ledger.
        unit_ids: the units of the source.
    """
    usage = LlmUsage()
    units = set(unit_ids)
    for stage in storage.folders(RESPONSES):
        folders = storage.folders(f"{RESPONSES}/{stage}")
        others = [unit for unit in folders if stage not in stages or unit not in units]
        for requests in recorded_units(storage, stage, others).values():
            usage.add(requests)
    return usage if usage.requests or usage.damaged else None
