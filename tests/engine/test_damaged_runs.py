"""A finished run whose files were damaged: each damage is named, and made good without paying."""

from __future__ import annotations

from pathlib import Path

from support.command import Command
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

ROWS = 30


def durable(toy: Toy) -> dict[str, bytes]:
    """The rows, answers and exported files of a run, by path."""
    folders = ("stages", "responses", "exports")
    files = [path for folder in folders for path in (toy.run_dir / folder).rglob("*")]
    return {str(p.relative_to(toy.run_dir)): p.read_bytes() for p in files if p.is_file()}


def digests(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files, without the counts of requests and seconds, which differ after a repair."""
    return {
        path: data for path, data in files.items() if "/rows/" not in path and "done" not in path
    }


def test_damage_is_named_and_made_good_from_what_was_paid_for(
    command: Command, tmp_path: Path
) -> None:
    with MockServer() as server:
        llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
        toy = make_toy(
            tmp_path,
            [f"text {i}" for i in range(ROWS)],
            pipeline="toy_ask",
            llms={"mock": llm},
            stages={"ask": {"llm": "mock", "prompt": "ask"}},
        )
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["arrivals"] == ROWS
    before, rows = durable(toy), toy.parts("03-whisper")
    cost = toy.stage("ask")["llm"]["cost_usd"]

    def part(folder: str, unit: int) -> Path:
        return sorted((toy.run_dir / "stages" / folder / "rows").iterdir())[unit]

    removed, copied = part("01-shout", 0), part("02-ask", 2)
    flipped, torn = part("03-whisper", 0), part("03-whisper", 1)
    stranger = flipped.with_name("part-of-another-run.parquet")
    removed.unlink()
    copied.write_bytes(part("02-ask", 1).read_bytes())
    data = bytearray(flipped.read_bytes())
    data[100] ^= 4
    flipped.write_bytes(data)
    torn.write_bytes(torn.read_bytes()[:-50])
    stranger.write_bytes(b"")
    mark = toy.run_dir / "stages/03-whisper/done.json"

    looked = command("verify", toy.run_dir)
    assert looked.code == 1, looked.text
    assert len(looked.out.splitlines()) == 6  # five damages, and their number
    # The server is gone: whoever asked for anything would fail.
    planned = command("plan", toy.config_file)
    assert planned.code == 0, planned.text
    again = command("run", toy.config_file)
    assert again.code == 0, again.text
    told = toy.ledger()["damages"]
    for output in (planned.out, again.out, "\n".join(told)):
        assert f"stages/01-shout/rows/{removed.name} is missing" in output
        assert f"stages/02-ask/rows/{copied.name} is damaged: it holds the rows of" in output
        assert f"{flipped.name} is damaged: bytes 0 to" in output
        assert f"{torn.name} is damaged: its end is missing" in output
        assert f"{stranger.name} is no part of this run: it is not read" in output
        assert "4 units are made again, with the stored answers" in output
    stranger.unlink(missing_ok=True)  # a stage that is made again tidies its folder
    assert toy.parts("03-whisper").equals(rows)
    after = durable(toy)
    assert after.keys() == before.keys()
    assert digests(after) == digests(before)
    assert toy.stage("ask")["llm"]["cost_usd"] == cost
    looked = command("verify", toy.run_dir)
    assert looked.code == 0, looked.text
    shown = command("status", toy.run_dir)
    assert f"{torn.name} is damaged" in shown.out.replace("\n", "")

    # The mark of a stage is written again from its parts, which are looked at one by one.
    mark.write_bytes(mark.read_bytes()[:100])
    again = command("run", toy.config_file)
    assert again.code == 0, again.text
    assert "stages/03-whisper/done.json is damaged: it is not JSON" in again.out.replace("\n", "")
    last = command("run", toy.config_file, RAY_ADDRESS="127.0.0.1:1")
    assert last.code == 0, last.text
    assert "damages" not in toy.ledger()
    assert all(stage["reused"] for stage in toy.ledger()["stages"])
