"""The account of a stage, and of each source in it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.ledger import Ledger, LedgerEntry


def account(source: str, **rows: int) -> StageAccount:
    made = StageAccount("tidy", **rows)
    made.set_source(source)
    return made


def both() -> StageAccount:
    a = account("a", rows_in=3, created=1, kept=2, dropped=2)
    b = account("b", rows_in=4, kept=3, failed=1)
    (added,) = total(["tidy"], [[a], [b], [account("a", rows_in=1, kept=1)]])
    return added


def test_units_add_up_to_their_sources() -> None:
    assert both().sources == {
        "a": {"rows_in": 4, "created": 1, "kept": 3, "dropped": 2, "failed": 0},
        "b": {"rows_in": 4, "created": 0, "kept": 3, "dropped": 0, "failed": 1},
    }
    assert both().balances


def test_sources_that_do_not_balance_are_found() -> None:
    # The stage as a whole balances: a row has moved from one source to the other.
    moved = both()
    moved.sources["a"]["kept"] -= 1
    moved.sources["b"]["kept"] += 1
    assert not moved.balances
    lost = both()
    del lost.sources["b"]
    assert not lost.balances


def test_a_source_must_pass_on_what_it_kept() -> None:
    after = StageAccount.untouched("after", both())
    Ledger("run", entries=[LedgerEntry(1, "x", both()), LedgerEntry(2, "y", after)]).check()
    for source, rows in (("a", 1), ("b", -1)):
        after.sources[source]["rows_in"] += rows
        after.sources[source]["kept"] += rows
    assert after.balances
    entries = [LedgerEntry(1, "x", both()), LedgerEntry(2, "y", after)]
    with pytest.raises(RunError, match="'tidy' kept 3 rows of the source a, but 'after' read 4"):
        Ledger("run", entries=entries).check()


def test_without_names_the_ledger_is_as_it_was() -> None:
    plain = account("", rows_in=3, kept=3)
    assert "sources" not in plain.to_json()
    assert StageAccount.from_json(plain.to_json()) == plain
    assert StageAccount.from_json(both().to_json()) == both()
    assert Ledger("run", entries=[LedgerEntry(0, "x", plain)]).by_source() == {}


def rows_of(*ids: str) -> pa.Table:
    return with_envelope(pa.table({"text": list(ids)}), ids)


def test_created_rows_are_counted_so_that_a_lost_row_breaks_the_balance() -> None:
    came_in = rows_of("1", "2", "3")
    whole = StageAccount.of("augment", came_in, rows_of("1", "2", "3", "new"))
    assert (whole.rows_in, whole.created, whole.kept) == (3, 1, 4) and whole.balances
    lost = StageAccount.of("augment", came_in, rows_of("1", "3", "new"))
    assert (lost.rows_in, lost.created, lost.kept) == (3, 1, 3) and not lost.balances
    twice = StageAccount.of("augment", came_in, rows_of("1", "2", "3", "3"))
    assert twice.created == 0 and not twice.balances
    with pytest.raises(RunError):
        Ledger("run", entries=[LedgerEntry(1, "x", lost)]).check()
    none = StageAccount.of("augment", rows_of(), rows_of())
    assert none.created == 0 and none.balances
