from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from support.made_run import FOLDERS, TEXTS, MadeRun, made_run
from support.screen import shown

from ray_pipeline.cli.views import look as views
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import created_row_id
from ray_pipeline.report import write_report
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.checksums import DamagedFile, json_with_checksum
from ray_pipeline.rundir.diff import diff
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.parts import DamagedPart, read_rows, write_part
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.responses import Journal, NoAnswer, Response
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.rundir.trace import trace
from ray_pipeline.rundir.verify import Verification


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return made_run(str(tmp_path / "made"))


@pytest.fixture
def reader(run: MadeRun) -> RunReader:
    return RunReader(run.storage.root)


def test_reads_the_ledger_back(run: MadeRun, reader: RunReader) -> None:
    assert reader.ledger == run.ledger
    assert reader.entry("ask").account == run.accounts["ask"]
    assert reader.config["name"] == "made-run"
    assert reader.units == run.units


def test_finds_the_stages_that_share_a_folder(reader: RunReader) -> None:
    assert [segment.stages for segment in reader.segments] == [
        ("source", "tidy"),
        ("ask",),
        ("augment",),
    ]
    assert [segment.folder for segment in reader.segments] == list(FOLDERS.values())


def leave(run: MadeRun, folder: str, unit_id: str) -> None:
    """A part of another version of a stage."""
    rows = read_rows(run.storage, part_path(FOLDERS["tidy"], run.units[0].unit_id))
    account = StageAccount.of("augment", rows, rows)
    path = part_path(folder, unit_id)
    write_part(run.storage, path, rows, fingerprint="old", input_digest="", accounts=[account])


def test_leftovers_of_other_runs_are_not_this_runs_rows(run: MadeRun) -> None:
    leave(run, "stages/00-source", run.units[0].unit_id)  # of other cuts
    leave(run, FOLDERS["tidy"], "0" * 32)  # a unit that the source no longer has
    leave(run, FOLDERS["augment"], run.units[1].unit_id)  # another fingerprint
    run.storage.delete(f"{FOLDERS['augment']}/done.json")  # the stage has not come to it yet
    reader = RunReader(run.storage.root)
    assert [segment.folder for segment in reader.segments] == list(FOLDERS.values())
    assert Rows(reader, "tidy").to_arrow().num_rows == len(TEXTS)
    assert Rows(reader, "augment").to_arrow().num_rows == 4


def copy(run: MadeRun, source: str, target: str) -> None:
    data = run.storage.read_bytes(source)
    assert data is not None
    run.storage.write_bytes(target, data)


def test_a_finished_stage_says_which_of_its_parts_is_not_what_was_written(run: MadeRun) -> None:
    one, two = (part_path(FOLDERS["augment"], unit.unit_id) for unit in run.units)
    whole = run.storage.read_bytes(two)
    assert whole is not None
    before = part_path(FOLDERS["ask"], run.units[1].unit_id)
    flipped = bytearray(whole)
    flipped[50] ^= 1

    def damages() -> Iterator[str]:
        run.storage.delete(two)
        yield "is missing: run again"
        copy(run, one, two)
        yield f"is damaged: it holds the rows of unit {run.units[0].unit_id}. Delete it and run"
        copy(run, before, two)
        yield "is damaged: it was made by other stages"
        for torn in (b"", whole[:-1], whole[: len(whole) // 2]):
            run.storage.write_bytes(two, torn)
            yield "is damaged: it"
        run.storage.write_bytes(two, bytes(flipped))
        yield "is damaged: bytes 0 to"

    for message in damages():
        reader = RunReader(run.storage.root)
        with pytest.raises(DamagedPart, match=f"{two} {message}"):
            Rows(reader, "augment").to_arrow()
        with pytest.raises(DamagedPart, match=two):
            trace(reader, run.row_id(6))
        with pytest.raises(DamagedPart, match=two):
            diff(reader, reader)
        with pytest.raises(DamagedFile, match=f"report.html is not complete: .*{two}"):
            write_report(run.storage)
        assert two in (run.storage.read_bytes("report.html") or b"").decode()
        assert Rows(reader, "tidy").to_arrow().num_rows == len(TEXTS)  # what is whole is read


def test_a_ledger_and_metrics_that_are_damaged_are_told(run: MadeRun) -> None:
    whole = json_with_checksum({"ask": {"score": 0.71}})
    run.storage.write_bytes("metrics.json", whole)
    assert RunReader(run.storage.root).metrics == {"ask": {"score": 0.71}}
    run.storage.write_bytes("metrics.json", whole.replace(b"0.71", b"0.91"))
    with pytest.raises(DamagedFile, match=r"metrics\.json is damaged: it has another checksum"):
        _ = RunReader(run.storage.root).metrics
    text = run.storage.read_bytes("ledger.json") or b""
    for damage in (b"", text[:-5], text.replace(b'"kept": 5', b'"kept": 7')):
        run.storage.write_bytes("ledger.json", damage)
        with pytest.raises(UserError, match=r"ledger\.json is damaged: .*Run again"):
            RunReader(run.storage.root)


def test_units_and_the_marks_of_stages_that_are_damaged_are_told(run: MadeRun) -> None:
    data = run.storage.read_bytes("units.parquet")
    assert data is not None
    run.storage.write_bytes("units.parquet", data[:60] + b"!" + data[61:])
    with pytest.raises(DamagedFile, match=r"units\.parquet is damaged: .*Run again: it is written"):
        _ = RunReader(run.storage.root).units
    run.storage.write_bytes("units.parquet", data)
    path = f"{FOLDERS['ask']}/done.json"
    text = run.storage.read_bytes(path) or b""
    for damage in (b"", b"null", b"{}", text[:-3], text.replace(b'"kept": 5', b'"kept": 6')):
        assert damage != text
        run.storage.write_bytes(path, damage)
        with pytest.raises(DamagedFile, match=f"{path} is damaged: .*Run again: it is written"):
            _ = RunReader(run.storage.root).identities


def test_a_directory_without_a_run_names_those_nearby(run: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'made'"):
        RunReader(str(tmp_path / "mad"))
    with pytest.raises(UserError, match=f"holds the runs {tmp_path.name}/made"):
        RunReader(str(tmp_path))
    with pytest.raises(UserError, match="not a run directory"):
        RunReader("/nowhere/at/all")


def test_finds_a_row_by_its_beginning(run: MadeRun, reader: RunReader) -> None:
    whole = run.row_id(5)
    assert reader.find(whole[:8]) == (whole, run.units[1])
    made = created_row_id(run.row_id(6), "augment", 0)
    assert reader.find(made.upper()) == (made, run.units[1])
    with pytest.raises(UserError, match="at least 6"):
        reader.find(whole[:5])
    with pytest.raises(UserError, match="no committed row"):
        reader.find("0123456789")


def test_an_ambiguous_beginning_names_the_rows(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), ["one"])
    folder, unit = FOLDERS["tidy"], run.units[0]
    rows = read_rows(run.storage, part_path(folder, unit.unit_id))
    ids = ["abcdef01", "abcdef02"]
    twice = rows.take([0, 0]).drop_columns("row_id").append_column("row_id", [ids])
    accounts = [StageAccount.of(name, twice, twice) for name in ("source", "tidy")]
    path = part_path(folder, unit.unit_id)
    write_part(
        run.storage, path, twice, fingerprint="print-tidy", input_digest="", accounts=accounts
    )
    with pytest.raises(UserError, match="2 rows begin so: abcdef01, abcdef02"):
        RunReader(str(tmp_path)).find("abcdef")


def test_malformed_replies_are_answers_too(run: MadeRun, reader: RunReader) -> None:
    journal = Journal(run.storage, "ask", run.units[0].unit_id)
    no_answer = NoAnswer("malformed", raw="<html>")
    journal.append_no_answer("other", run.row_id(0), "tiny-writer", no_answer)
    journal.close()
    assert [(a.text, a.malformed) for a in reader.answers("ask", run.units[0], run.row_id(0))] == [
        ("one, rewritten", False),
        ("<html>", True),
    ]


def test_only_the_answer_before_a_rejection_is_shown_as_rejected(
    run: MadeRun, reader: RunReader
) -> None:
    row_id = run.row_id(0)
    for text in ("bad", "good"):
        journal = Journal(run.storage, "ask", run.units[0].unit_id)
        journal.append("asked again", row_id, "tiny-writer", Response(text, "stop", 1, 1))
        if text == "bad":
            journal.reject("asked again")
        journal.close()
    answers = reader.answers("ask", run.units[0], row_id)
    assert [(a.text, a.rejected) for a in answers[1:]] == [("bad", True), ("good", False)]


def test_a_killed_driver_is_noticed(run: MadeRun) -> None:
    run.save("running")
    for pid, gone in ((os.getpid(), False), (2**22 + 1, True)):
        owner = {"host": socket.gethostname(), "pid": pid}
        run.storage.write_bytes("run.lock", orjson.dumps(owner))
        assert RunReader(run.storage.root).driver_is_gone() == gone
    assert "it was killed" in shown(views.status(RunReader(run.storage.root)))
    run.storage.delete("run.lock")
    assert not RunReader(run.storage.root).driver_is_gone()


def test_what_a_killed_driver_left_unfinished_is_counted_from_storage(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), ask_units=1)
    # As saved before the first request: with no unit committed, and no answer.
    ask = next(entry for entry in run.ledger.entries if entry.account.name == "ask")
    del run.ledger.entries[run.ledger.entries.index(ask) + 1 :]
    ask.account, ask.finished = StageAccount("ask", llm=LlmUsage()), False
    other = Journal(run.storage, "ask", run.units[1].unit_id)
    other.append("key", "row", "tiny-writer", Response("yes", "stop", 7, 3, cost_usd=0.5))
    other.append_no_answer("other", "row", "tiny-writer", NoAnswer("timeout", 32))
    other.close()
    run.save("running")
    owner = {"host": socket.gethostname(), "pid": 2**22 + 1}
    run.storage.write_bytes("run.lock", orjson.dumps(owner))
    entry = RunReader(run.storage.root).entry("ask")
    tidy = RunReader(run.storage.root).entry("tidy")
    assert entry.account.llm is not None and not entry.finished
    first_unit = run.units[0].rows - 1  # one of its rows is dropped before
    assert entry.account.rows_in == first_unit
    assert entry.account.balances
    assert entry.rows_waiting == tidy.account.kept - first_unit
    usage = entry.account.llm
    assert (usage.sent, usage.unanswered, usage.retries) == (first_unit + 2, 1, 31)
    assert usage.cost_usd == first_unit * 0.25 + 0.5
    text = shown(views.status(RunReader(run.storage.root)), width=160)
    assert f"not finished, {entry.rows_waiting} to come" in text
    # A driver that lives saves it itself.
    run.storage.write_bytes("run.lock", orjson.dumps({**owner, "pid": os.getpid()}))
    assert RunReader(run.storage.root).entry("ask").account.rows_in == 0


def test_ledgers_of_earlier_versions_are_finished(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    ledger = orjson.loads(run.storage.read_bytes("ledger.json") or b"")
    del ledger["checksum"]
    for stage in ledger["stages"]:
        assert "finished" not in stage
        if stage["llm"]:
            stage["llm"] = {"requests": 3, "reused": 1, "cost_usd": 0.5}
    run.storage.write_bytes("ledger.json", orjson.dumps(ledger))
    reader = RunReader(run.storage.root)
    assert all(entry.finished for entry in reader.ledger.entries)
    usage = reader.entry("ask").account.llm
    assert usage is not None and (usage.sent, usage.unanswered) == (4, 0)
    assert "not finished" not in shown(views.status(reader))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="runs")
    yield "s3://runs"
    server.stop()


@pytest.mark.slow
def test_object_storage_is_read_the_same_way(bucket: str) -> None:
    run = made_run(f"{bucket}/made")
    reader = RunReader(run.storage.root)
    assert Rows(reader, "augment", "kept").to_arrow().num_rows == 10
    assert trace(reader, run.row_id(4)[:8]).events[-1].status == "kept"
    assert "succeeded" in shown(views.status(reader))
    assert write_report(run.storage) == f"{bucket}/made/report.html"
    assert b"tidy:spam" in (run.storage.read_bytes("report.html") or b"")
    verification = Verification(run.storage)
    assert list(verification.findings()) == [] and verification.files >= 13
    one, two = (part_path(FOLDERS["augment"], unit.unit_id) for unit in run.units)
    copy(run, one, two)
    assert [f.path for f in Verification(run.storage).findings()] == [two]
    with pytest.raises(UserError, match="did you mean 'made'"):
        RunReader(f"{bucket}/mad")
