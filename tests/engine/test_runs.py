"""Whole runs of toy jobs through the command: the account, reuse, retry, and what stops a run."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.command import TESTS, Command, InProcess
from support.toy_run import Toy, make_toy

MIXED = [
    f"row {i}" + " drop" * (i % 10 == 3) + " twin" * (i % 25 == 4) + " boom" * (i == 7)
    for i in range(60)
]


@pytest.fixture(scope="module")
def mixed(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A finished run, to be looked at only."""
    folder = tmp_path_factory.mktemp("mixed")
    toy = make_toy(folder, MIXED)
    done = Command(ray_cluster, folder)("run", toy.config_file)
    assert done.code == 0, done.text
    return toy


def test_every_row_is_accounted_for(mixed: Toy) -> None:
    toy = mixed
    source, shout, whisper = toy.ledger()["stages"]
    assert (source["rows_in"], source["kept"]) == (60, 60)
    assert (shout["rows_in"], shout["created"], shout["dropped"], shout["failed"]) == (60, 3, 6, 1)
    assert shout["kept"] == 60 + 3 - 6 - 1 == whisper["rows_in"] == whisper["kept"]
    assert shout["reasons"] == {"error:ValueError": 1, "toy:dropped": 6}
    assert shout["counts"] == {"shouted": 59}

    rows = toy.parts("02-whisper").to_pylist()
    assert len({row["row_id"] for row in rows}) == len(rows) == 63
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["text"] == "row 7 boom"
    assert (failed["stage"], failed["reason"]) == ("shout", "error:ValueError: the text says boom")
    twins = [row for row in rows if row["parent_id"]]
    assert len(twins) == 3
    assert {twin["parent_id"] for twin in twins} < {row["row_id"] for row in rows}


def test_a_second_run_reuses_every_stage_and_starts_no_cluster(
    mixed: Toy, own_process: Command, tmp_path: Path
) -> None:
    toy = Toy(mixed.config_file, tmp_path / "run", mixed.source)
    shutil.copytree(mixed.run_dir, toy.run_dir)
    before = {p: p.stat().st_mtime_ns for p in (toy.run_dir / "stages").rglob("*.parquet")}
    # An address where nothing is: it would fail if it tried to connect.
    again = own_process("run", toy.config_file, "--run-dir", toy.run_dir, RAY_ADDRESS="127.0.0.1:1")
    assert again.code == 0, again.text
    assert all(stage["reused"] for stage in toy.ledger()["stages"])
    assert before == {p: p.stat().st_mtime_ns for p in (toy.run_dir / "stages").rglob("*.parquet")}


def test_identity_reruns_and_execution_does_not(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, ["a", "b"], pipeline="toy_decide")
    assert command("run", toy.config_file).code == 0
    toy.change(stages={"shout": {"pace": 5}})
    assert command("run", toy.config_file).code == 0
    assert [stage["reused"] for stage in toy.ledger()["stages"]] == [True] * 4
    toy.change(stages={"shout": {"suffix": "?"}})
    assert command("run", toy.config_file).code == 0
    assert [stage["reused"] for stage in toy.ledger()["stages"]] == [False] * 4
    assert sorted(toy.parts("03-whisper")["whisper"].to_pylist()) == ["a?", "b?"]


def test_an_appended_file_runs_only_its_units_and_a_removed_one_leaves_no_part(
    command: Command, tmp_path: Path
) -> None:
    toy = make_toy(tmp_path, [f"row {i}" for i in range(30)])
    folder = tmp_path / "texts"
    folder.mkdir()
    toy.source.rename(folder / "a.jsonl")
    toy.change(source={"path": str(folder)})
    assert command("run", toy.config_file).code == 0
    before = {p.name: p.stat().st_mtime_ns for p in toy.run_dir.rglob("part-*.parquet")}
    (folder / "b.jsonl").write_text('{"text": "new"}\n')
    assert command("run", toy.config_file).code == 0
    after = {p.name: p.stat().st_mtime_ns for p in toy.run_dir.rglob("part-*.parquet")}
    assert len(after) == len(before) + 1
    assert before.items() < after.items()
    assert toy.stage("whisper")["kept"] == 31

    (folder / "a.jsonl").unlink()
    assert command("run", toy.config_file).code == 0
    assert toy.parts("02-whisper")["text"].to_pylist() == ["new"]


@pytest.mark.chaos
def test_a_row_that_kills_its_worker_fails_alone(command: Command, tmp_path: Path) -> None:
    texts = [f"row {i}" for i in range(12)]
    texts[5] += " kill"
    toy = make_toy(tmp_path, texts, unit_rows=4, budget={"max_failed_rows": 1})
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert toy.stage("shout")["reasons"] == {"crash:worker_died": 1}
    rows = toy.parts("02-whisper").to_pylist()
    assert [row["text"] for row in rows if row["status"] == "failed"] == ["row 5 kill"]
    assert sum(row["status"] == "kept" for row in rows) == 11


def test_too_many_failed_rows_stop_the_run(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, ["boom 1", "boom 2", "fine"], budget={"max_failed_rows": 1})
    done = command("run", toy.config_file)
    assert done.code == 1
    assert "2 rows failed, 1 are allowed" in done.err
    assert toy.ledger()["status"] == "failed"


def test_an_unexpected_end_is_one_line_and_its_trace_is_in_the_log(
    command: Command, tmp_path: Path
) -> None:
    toy = make_toy(tmp_path, ["a", "b"], pipeline="toy_defect")
    done = command("run", toy.config_file)
    assert done.code == 1, done.text
    end = "LookupError: a defect (logs/ray.log has the rest)"
    assert done.err.splitlines() == [f"error: the run failed: {end}"]
    assert "Traceback" not in done.text
    assert (toy.ledger()["status"], toy.ledger()["message"]) == ("failed", end)
    log = (toy.run_dir / "logs/ray.log").read_text()
    assert "the run ended unexpectedly\nTraceback" in log
    assert "toy_defect.py" in log
    assert "LookupError: a defect\nand what else is to say about it" in log


def test_a_file_that_cannot_be_written_keeps_no_other_from_being_written(
    command: Command, tmp_path: Path
) -> None:
    """Nor the report; the next start writes the files, and runs no stage again."""
    toy = make_toy(tmp_path, ["a", "drop b"], pipeline="toy_exports")
    done = command("run", toy.config_file)
    assert done.code == 1, done.text
    (line,) = done.err.splitlines()
    assert "the rows are complete, but not every exported file could be written" in line
    assert "exports/dropped.csv: LookupError: a defect. logs/ray.log has the rest" in line
    assert toy.ledger()["status"] == "failed" and toy.ledger()["message"] in line
    assert "toy_exports.py" in (toy.run_dir / "logs/ray.log").read_text()
    assert len((toy.run_dir / "exports/dataset.jsonl").read_text().splitlines()) == 1
    assert (toy.run_dir / "report.html").is_file()

    # The same where every stage is reused, and no cluster is joined.
    (toy.run_dir / "logs/ray.log").unlink()
    assert command("run", toy.config_file).code == 1
    assert "LookupError: a defect" in (toy.run_dir / "logs/ray.log").read_text()

    toy.change(job=str(TESTS / "support" / "jobs" / "toy_shout.py"))
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert all(stage["reused"] for stage in toy.ledger()["stages"])
    assert len((toy.run_dir / "exports/dropped.csv").read_text().splitlines()) == 2


def test_the_layout_of_blocks_and_units_changes_no_row(command: Command, tmp_path: Path) -> None:
    rows = {}
    for unit_rows in (7, 60):
        folder = tmp_path / str(unit_rows)
        folder.mkdir()
        toy = make_toy(folder, MIXED * 2, pipeline="toy_decide", unit_rows=unit_rows)
        assert command("run", toy.config_file).code == 0
        table = toy.parts("03-whisper").drop_columns(["whisper"])
        rows[unit_rows] = sorted(map(repr, table.to_pylist()))
        kept = [row for row in table.to_pylist() if row["status"] == "kept"]
        assert len({row["text"] for row in kept}) == len(kept)
    assert rows[7] == rows[60]


def test_a_second_run_is_refused_and_ctrl_c_stops_the_first_cleanly(
    command: Command, tmp_path: Path
) -> None:
    toy = make_toy(tmp_path, [f"row {i} slow" for i in range(40)], unit_rows=1)
    process = command.start("run", toy.config_file)
    deadline = time.monotonic() + 60
    while not list(toy.run_dir.rglob("part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    second = command("run", toy.config_file)
    assert second.code == 2
    assert f"process {process.pid}" in second.err
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "to continue" in err
    ledger = toy.ledger()
    assert ledger["status"] == "interrupted"
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert toy.stage("whisper")["kept"] == 40


def test_until_stops_after_a_stage(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, MIXED)
    assert command("run", toy.config_file, "--until", "shout").code == 0
    assert [stage["name"] for stage in toy.ledger()["stages"]] == ["source", "shout"]
    wrong = command("run", toy.config_file, "--until", "shuot")
    assert wrong.code == 2
    assert "did you mean 'shout'" in wrong.err


def test_save_every_stage_commits_each_stage(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, MIXED, save_every_stage=True)
    assert command("run", toy.config_file).code == 0
    assert (toy.run_dir / "stages/01-shout/done.json").exists()
    assert toy.parts("01-shout").num_rows == 63
    assert toy.parts("02-whisper").num_rows == toy.stage("shout")["kept"]


def test_a_part_that_was_deleted_is_named_and_made_again(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, [f"text {i}" for i in range(30)], save_every_stage=True)
    assert command("run", toy.config_file, "--until", "shout").code == 0
    part = min(toy.run_dir.glob("stages/01-shout/rows/part-*.parquet"))
    part.unlink()
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert f"stages/01-shout/rows/{part.name} is missing" in done.out.replace("\n", "")
    assert part.exists()
    assert toy.stage("whisper")["kept"] == 30


def test_the_ledger_and_the_exports_agree(mixed: Toy) -> None:
    toy = mixed
    lines = (toy.run_dir / "exports/dataset.jsonl").read_text().splitlines()
    assert len(lines) == toy.stage("whisper")["kept"]
    assert all(json.loads(line)["status"] == "kept" for line in lines)
    dropped = (toy.run_dir / "exports/dropped.csv").read_text().splitlines()
    assert len(dropped) == 1 + toy.stage("shout")["dropped"] + toy.stage("shout")["failed"]


def test_one_driver_may_run_a_directory_again_and_again(command: Command, tmp_path: Path) -> None:
    """Its workers are idle between the runs, and must not count as those of a killed one."""
    assert isinstance(command, InProcess)
    toy = make_toy(tmp_path, [f"text {i}" for i in range(20)])
    for suffix in "!?":
        toy.change(stages={"shout": {"suffix": suffix}})
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert "waiting for the workers" not in done.text
        assert not toy.stage("shout")["reused"]
