"""Stored answers that are damaged: told with file and line, counted, and asked for again."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.command import Command
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

ROWS = 12


def toy_ask(folder: Path, server: MockServer) -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    return make_toy(
        folder,
        [f"text {i}" for i in range(ROWS)],
        pipeline="toy_ask",
        unit_rows=6,
        llms={"mock": llm | {"usd_per_million": {"prompt": 1.0, "completion": 1.0}}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
    )


def test_damaged_answers_are_told_counted_and_asked_for_again(
    command: Command, tmp_path: Path
) -> None:
    with MockServer() as server:
        toy = toy_ask(tmp_path, server)
        assert command("run", toy.config_file).code == 0
        rows = toy.parts("02-ask").to_pylist()
        # As if the run had been killed before it committed the stage.
        shutil.rmtree(toy.run_dir / "stages/02-ask")
        path = min((toy.run_dir / "responses/ask").rglob("*.jsonl"))
        lines = path.read_bytes().splitlines(keepends=True)
        lines[1] = lines[1].replace(b'"text":"', b'"text":"not ')
        lines[3] = b"\xff" + lines[3]
        path.write_bytes(b"".join(lines))
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["completed"] == ROWS + 2
    assert toy.parts("02-ask").to_pylist() == rows
    # A terminal breaks long lines anywhere.
    told = "".join(done.text.split())
    name = path.relative_to(toy.run_dir)
    assert f"{name},line2:itschecksumdoesnotmatch;{name},line4:" in told
    assert told.count("cannotberead") == 1
    usage = toy.stage("ask")["llm"]
    assert (usage["damaged"], usage["requests"], usage["reused"]) == (2, 2, ROWS - 2)
    assert "ask: 2 stored lines were damaged" in command("status", toy.run_dir).out
    assert "2 stored lines were damaged" in (toy.run_dir / "report.html").read_text()
