from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from rich.console import Console
from support.made_run import FOLDERS, TEXTS, MadeRun, made_run

from ray_pipeline.cli import look as run_views
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import created_row_id
from ray_pipeline.report import write_report
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.parts import read_rows, write_part
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.responses import Journal
from ray_pipeline.rundir.trace import trace


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return made_run(str(tmp_path / "made"))


@pytest.fixture
def reader(run: MadeRun) -> RunReader:
    return RunReader(run.storage.root)


def shown(*things: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    for thing in things:
        console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_reads_the_ledger_back(run: MadeRun, reader: RunReader) -> None:
    assert reader.ledger == run.ledger
    assert reader.entry("ask").account == run.accounts["ask"]
    assert reader.config["name"] == "made-run"
    assert reader.units == run.units


def test_imports_no_ray() -> None:
    code = "import sys, ray_pipeline.cli.look, ray_pipeline.report; sys.exit('ray' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0


def test_finds_the_stages_that_share_a_folder(reader: RunReader) -> None:
    assert [segment.stages for segment in reader.segments] == [
        ("source", "tidy"),
        ("ask",),
        ("augment",),
    ]
    assert [segment.folder for segment in reader.segments] == list(FOLDERS.values())


def test_leftovers_of_other_runs_are_not_this_runs_rows(run: MadeRun) -> None:
    rows = read_rows(run.storage, part_path(FOLDERS["tidy"], run.units[0].unit_id))
    for folder, unit_id in [
        ("stages/00-source", run.units[0].unit_id),  # of other cuts
        (FOLDERS["tidy"], "0" * 32),  # a unit that the source no longer has
        (FOLDERS["augment"], run.units[1].unit_id),  # another fingerprint
    ]:
        write_part(
            run.storage,
            part_path(folder, unit_id),
            rows,
            fingerprint="another",
            input_digest="",
            accounts=[run.accounts["augment"]],
        )
    reader = RunReader(run.storage.root)
    assert [segment.folder for segment in reader.segments] == list(FOLDERS.values())
    assert len(list(reader.iter_rows("tidy"))) == len(TEXTS)
    assert len(list(reader.iter_rows("augment"))) == 4


def test_rows_by_status_and_reason(reader: RunReader) -> None:
    dropped = list(reader.iter_rows("tidy", "dropped"))
    assert [row["text"] for row in dropped] == ["two spam", "six spam"]
    assert list(reader.iter_rows("tidy", reason="tidy:sp")) == dropped
    assert list(reader.iter_rows("tidy", reason="tidy:spam: it says")) == dropped
    assert not list(reader.iter_rows("tidy", reason="other"))
    assert [row["text"] for row in reader.iter_rows("ask", "failed")] == ["four boom"]
    assert len(list(reader.iter_rows("ask", "kept"))) == 5
    assert len(list(reader.iter_rows("ask"))) == 6
    assert len(reader.rows("ask", limit=2)) == 2


def test_kept_rows_of_fused_stages_come_with_a_note(reader: RunReader) -> None:
    assert "source ran and committed together with tidy" in (reader.kept_note("source") or "")
    assert reader.kept_note("tidy") is None
    assert len(list(reader.iter_rows("source", "kept"))) == 6


def test_unknown_stage_and_status_name_the_nearest(reader: RunReader) -> None:
    with pytest.raises(UserError, match="did you mean 'augment'"):
        reader.rows("augmet")
    with pytest.raises(UserError, match="did you mean 'dropped'"):
        reader.rows("tidy", "droped")


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
    write_part(
        run.storage,
        part_path(folder, unit.unit_id),
        twice,
        fingerprint="print-tidy",
        input_digest="",
        accounts=[run.accounts["source"], run.accounts["tidy"]],
    )
    with pytest.raises(UserError, match="2 rows begin so: abcdef01, abcdef02"):
        RunReader(str(tmp_path)).find("abcdef")


def test_traces_a_row_that_came_through(run: MadeRun, reader: RunReader) -> None:
    life = trace(reader, run.row_id(4))
    assert (life.position, life.parent_id, life.waits_for) == (4, None, None)
    assert [event.stages for event in life.events] == [("source", "tidy"), ("ask",), ("augment",)]
    read, asked, augmented = life.events
    assert read.from_source
    assert [(c.column, c.before, c.after) for c in asked.changes] == [
        ("text", "five", "five, rewritten"),
        ("original_text", None, "five"),
    ]
    assert [answer.text for answer in asked.answers] == ["five, rewritten"]
    assert augmented.created == [created_row_id(run.row_id(4), "augment", 0)]
    assert augmented.changes == []


def test_traces_a_row_that_failed(run: MadeRun, reader: RunReader) -> None:
    life = trace(reader, run.row_id(3))
    assert life.events[-1].stage == "ask"
    assert life.events[-1].reason == "llm:unusable: too short"
    assert [(a.text, a.rejected) for a in life.events[-1].answers] == [("!", True)]


def test_traces_a_created_row_to_its_source(run: MadeRun, reader: RunReader) -> None:
    parent = run.row_id(2)
    life = trace(reader, created_row_id(parent, "augment", 0))
    assert (life.parent_id, life.position) == (parent, 2)
    (event,) = life.events
    assert event.created_by == "augment"
    assert [(c.before, c.after) for c in event.changes] == [
        ("three, rewritten", "THREE, REWRITTEN")
    ]


def test_traces_a_row_that_waits(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), TEXTS, ask_units=1).save("interrupted", "stopped by the user")
    reader = RunReader(str(tmp_path))
    assert trace(reader, run.row_id(6)).waits_for == ("ask",)
    assert "not through ask yet" in shown(run_views.trace(reader, run.row_id(6)))


def test_malformed_replies_are_answers_too(run: MadeRun, reader: RunReader) -> None:
    journal = Journal(run.storage, "ask", run.units[0].unit_id)
    journal.append_malformed("other", run.row_id(0), "tiny-writer", "<html>")
    journal.close()
    assert [(a.text, a.malformed) for a in reader.answers("ask", run.units[0], run.row_id(0))] == [
        ("one, rewritten", False),
        ("<html>", True),
    ]


def test_a_killed_driver_is_noticed(run: MadeRun) -> None:
    run.save("running")
    for pid, gone in ((os.getpid(), False), (2**22 + 1, True)):
        owner = {"host": socket.gethostname(), "pid": pid}
        run.storage.write_bytes("run.lock", orjson.dumps(owner))
        assert RunReader(run.storage.root).driver_is_gone() == gone
    assert "it was killed" in shown(run_views.status(RunReader(run.storage.root)))
    run.storage.delete("run.lock")
    assert not RunReader(run.storage.root).driver_is_gone()


def test_status_fits_a_narrow_screen(reader: RunReader) -> None:
    text = shown(run_views.status(reader), width=80)
    assert "tidy:spam" in text and "$1.50" in text
    for name in ("source", "tidy", "ask", "augment"):
        assert f"\n{name} " in text


def test_status_says_where_the_account_is_wrong(run: MadeRun) -> None:
    run.accounts["ask"].kept += 1
    run.save()
    assert "does not balance: ask" in shown(run_views.status(RunReader(run.storage.root)))


def test_rows_are_plain_text_and_harmless(tmp_path: Path) -> None:
    made_run(str(tmp_path), ["[red]spam[/red]\x1b[31m\x9b " + "x" * 1000])
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    run_views.print_rows(console, RunReader(str(tmp_path)), "tidy")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]spam[/red]" in text
    assert "\x1b" not in text and "\x9b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_rows_as_json_lines(reader: RunReader) -> None:
    console = Console(file=io.StringIO(), width=40)
    run_views.print_rows(console, reader, "tidy", as_json=True, limit=3)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [orjson.loads(line)["text"] for line in lines] == TEXTS[:3]


def test_trace_shows_before_and_after(run: MadeRun, reader: RunReader) -> None:
    text = shown(run_views.trace(reader, run.row_id(0)))
    assert "data/in.csv, row 1" in text
    assert "- one\n" in text and "+ one, rewritten\n" in text
    assert "came through every stage" in text


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
    assert len(list(reader.iter_rows("augment", "kept"))) == 10
    assert trace(reader, run.row_id(4)[:8]).events[-1].status == "kept"
    assert "succeeded" in shown(run_views.status(reader))
    assert write_report(run.storage) == f"{bucket}/made/report.html"
    assert b"tidy:spam" in (run.storage.read_bytes("report.html") or b"")
    with pytest.raises(UserError, match="did you mean 'made'"):
        RunReader(f"{bucket}/mad")
