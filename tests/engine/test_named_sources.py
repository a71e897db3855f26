"""A job of two sources: each row is accounted for by its source, and each source by itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from support.command import Command
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

#: Three are dropped, two doubled, one fails; then copies of texts are dropped: all but one each.
CORPUS = [f"text {n}" + " drop" * (n in (3, 7, 9)) + " twin" * (n in (5, 6)) for n in range(23)]
CORPUS += ["boom", "text 0", "text 1", "text 1"]
QUERIES = [{"text": f"where is {n}?", "topic": "abc"[n % 3]} for n in range(12)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def two_sources(folder: Path, base_url: str = "http://x/v1", **sources: Any) -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": base_url, "api_keys_env": []}
    toy = make_toy(
        folder,
        [],
        pipeline="toy_sources",
        unit_rows=5,
        llms={"mock": {**llm, "max_tokens": 20}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        budget={"max_failed_rows": 5},
    )
    for name, rows in (("corpus", [{"text": text} for text in CORPUS]), ("queries", QUERIES)):
        (folder / name).mkdir()
        write(folder / name / "a.jsonl", rows)
    config = yaml.safe_load(toy.config_file.read_text())
    del config["source"]
    paths = {name: {"path": str(folder / name)} for name in ("corpus", "queries")}
    config["sources"] = {name: keys | sources.get(name, {}) for name, keys in paths.items()}
    toy.config_file.write_text(yaml.safe_dump(config))
    return toy


def units_of(toy: Toy) -> dict[str, set[str]]:
    units: dict[str, set[str]] = {}
    for unit in pq.read_table(toy.run_dir / "units.parquet").to_pylist():
        units.setdefault(unit["source"], set()).add(unit["unit_id"])
    return units


def stamps(toy: Toy, stage: str) -> dict[str, int]:
    """When each unit's part of a segment was written."""
    folder = toy.run_dir / "stages" / stage / "rows"
    return {p.stem.removeprefix("part-"): p.stat().st_mtime_ns for p in folder.iterdir()}


def account(rows_in: int, created: int, kept: int, dropped: int, failed: int) -> dict[str, int]:
    return {
        "rows_in": rows_in, "created": created, "kept": kept, "dropped": dropped, "failed": failed,
    }  # fmt: skip


UNTOUCHED = account(12, 0, 12, 0, 0)


def test_two_sources_from_the_first_row_to_a_second_run(command: Command, tmp_path: Path) -> None:
    with MockServer() as server:
        toy = two_sources(tmp_path, server.base_url)
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["arrivals"] == 12
    every_row_is_accounted_for(toy)
    what_the_command_shows(command, toy)
    appending_to_one_source_runs_its_units_alone(command, toy)


def every_row_is_accounted_for(toy: Toy) -> None:
    accounts = {stage["name"]: stage["sources"] for stage in toy.ledger()["stages"]}
    assert list(accounts) == ["source", "shout", "first", "ask", "index", "compare"]
    corpus = {name: account["corpus"] for name, account in accounts.items()}
    assert corpus["source"] == account(27, 0, 27, 0, 0)
    assert corpus["shout"] == account(27, 2, 25, 3, 1)
    # Of each of the texts 5 and 6 two, of text 0 two, of text 1 three.
    assert corpus["first"] == account(25, 0, 20, 5, 0)
    assert corpus["ask"] == corpus["index"] == corpus["compare"] == account(20, 0, 20, 0, 0)
    assert {name: sources["queries"] for name, sources in accounts.items()} == dict.fromkeys(
        accounts, UNTOUCHED
    )
    for stage in toy.ledger()["stages"]:
        for key in UNTOUCHED:
            assert stage[key] == sum(rows[key] for rows in stage["sources"].values())

    rows = toy.parts("03-ask").to_pylist()
    units = units_of(toy)
    assert {name: len(ids) for name, ids in units.items()} == {"corpus": 6, "queries": 3}
    assert Counter(row["source_name"] for row in rows) == {"corpus": 20, "queries": 12}
    for row in rows:
        is_query = row["source_name"] == "queries"
        # What a stage is not for goes through unchanged, without its columns; what only one
        # source has is null in the other.
        assert (row["answer"] is not None) is is_query
        if row["parent_id"] is None:
            assert (row["shout"] is None) is is_query
        assert (row["topic"] is not None) is is_query
    # A row that is created is of its parent's source.
    created = [row for row in toy.parts("01-shout").to_pylist() if row["parent_id"]]
    assert [row["source_name"] for row in created] == ["corpus"] * 2

    index = json.loads((toy.run_dir / "index.json").read_text())
    assert (index["made"], len(index["texts"])) == (1, 20)
    compared = json.loads((toy.run_dir / "compared.json").read_text())
    assert Counter(row["source_name"] for row in compared) == {"corpus": 20, "queries": 12}


def what_the_command_shows(command: Command, toy: Toy) -> None:
    shown = command("status", toy.run_dir)
    assert shown.code == 0, shown.text
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["source", "rows", "in", "created", "kept", "dropped", "failed"] in lines
    assert ["corpus", "27", "2", "20", "8", "1"] in lines
    assert ["queries", "12", "12"] in lines
    rows = command("rows", toy.run_dir, "ask", "--source", "queries", "--json", "--limit", "99")
    assert [json.loads(line)["source_name"] for line in rows.out.splitlines()] == ["queries"] * 12
    rows = command("rows", toy.run_dir, "ask", "--source", "query")
    assert (rows.code, rows.out) == (2, "")
    assert "did you mean 'queries'? (known: corpus, queries)" in rows.err
    exported = (toy.run_dir / "exports" / "dataset.csv").read_text().splitlines()
    assert exported[0].split(",")[0].strip('"') == "source_name"
    assert len(exported) == 1 + 32


def appending_to_one_source_runs_its_units_alone(command: Command, toy: Toy) -> None:
    before, units = {s: stamps(toy, s) for s in ("02-first", "03-ask")}, units_of(toy)
    rows = {row["row_id"]: row for row in toy.parts("03-ask").to_pylist()}
    more = [{"text": f"and where is {n}?", "topic": "d"} for n in range(4)]
    write(toy.config_file.parent / "queries" / "0.jsonl", more)
    with MockServer() as server:
        toy.change(llms={"mock": {**config_of(toy)["llms"]["mock"], "base_url": server.base_url}})
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["arrivals"] == 4
    assert units_of(toy)["corpus"] == units["corpus"]
    assert units_of(toy)["queries"] > units["queries"]
    for stage, written in before.items():
        after = stamps(toy, stage)
        assert {unit: after[unit] for unit in written} == written
        assert len(after) == len(written) + 1
    after_rows = {row["row_id"]: row for row in toy.parts("03-ask").to_pylist()}
    assert {row_id: after_rows[row_id] for row_id in rows} == rows
    # The index is of the corpus alone, which is the same; what is made of both is made again.
    assert json.loads((toy.run_dir / "index.json").read_text())["made"] == 1
    assert len(json.loads((toy.run_dir / "compared.json").read_text())) == 20 + 16

    # More of the corpus: other winners are possible, and another index.
    write(toy.config_file.parent / "corpus" / "z.jsonl", [{"text": "text 2"}, {"text": "new"}])
    queries = units_of(toy)["queries"]
    written = stamps(toy, "03-ask")
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert {u: t for u, t in stamps(toy, "03-ask").items() if u in queries} == {
        u: t for u, t in written.items() if u in queries
    }
    index = json.loads((toy.run_dir / "index.json").read_text())
    assert (index["made"], len(index["texts"])) == (2, 21)


def config_of(toy: Toy) -> dict[str, Any]:
    return yaml.safe_load(toy.config_file.read_text())


def test_plan_counts_each_source(tmp_path: Path) -> None:
    toy = two_sources(tmp_path)
    done = Command("local", tmp_path)("plan", toy.config_file)
    assert done.code == 0, done.text
    lines = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.strip()}
    assert lines["source:"] == ["corpus", "27", "rows,", "queries", "12", "rows"]
    # The rows of both come in, and only the queries are asked about.
    assert lines["shout"] == ["run", "39"]
    assert lines["ask"][:3] == ["run", "37", "12"]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"source": {"path": "a.csv"}},
            ["'source' for one source, or 'sources' for several by name", "found both"],
        ),
        ({"sources": {}}, ["'source' for one source, or 'sources' for several", "neither"]),
        (
            {"sources": {"queries": {"columns": {"text": "txt"}}}},
            ["queries/a.jsonl: column 'txt' (for 'text') is not there", "sources.queries.columns"],
        ),
        (
            {"sources": {"corpus": {"encoding": "utf-9"}}},
            ["sources.corpus.encoding: unknown text encoding 'utf-9'"],
        ),
        (
            {"sources": {"questions": {"path": "queries"}, "queries": None}},
            ["stages.ask works on the rows of the source 'queries'", "(known: corpus, questions)"],
        ),
        (
            {"source": {"path": "corpus"}, "sources": None},
            ["the source 'corpus', which is not under sources: name it there"],
        ),
        ({"sources": {"cor pus": {"path": "corpus"}}}, ["sources.cor pus"]),
    ],
)
def test_what_is_wrong_with_them(
    tmp_path: Path, change: dict[str, Any], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = two_sources(tmp_path)
    refused(toy, change, parts, monkeypatch)


def refused(
    toy: Toy, change: dict[str, Any], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is refused before anything is written."""
    from ray_pipeline.core.errors import UserError
    from ray_pipeline.engine.prepare import prepare
    from ray_pipeline.pipeline import load_job

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support" / "jobs"))
    monkeypatch.chdir(toy.config_file.parent)
    config = merged(config_of(toy), change)
    toy.config_file.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError) as caught:
        job = load_job(toy.config_file, [], None)
        prepare(job.config, job.stages, job.prompt_folders, str(toy.config_file.parent / "s"))
    for part in parts:
        assert part in str(caught.value)
    assert not toy.run_dir.exists()


def merged(old: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The mapping with changed keys; None takes a key out."""
    result = dict(old)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and value and isinstance(old.get(key), dict):
            result[key] = merged(old[key], value)
        else:
            result[key] = value
    return result


@pytest.mark.parametrize(
    ("corpus", "queries", "parts"),
    [
        # A column that a stage reads of one source, in the other with another type.
        (
            {"text": "x", "topic": 3},
            {"text": "y", "topic": "a"},
            ["sources.queries: the column 'topic' is text, and in sources.corpus it is a whole "],
        ),
        (
            {"text": "x", "n": 3},
            {"text": "y", "topic": "a", "n": [1]},
            ["sources.queries: the column 'n' is of several types", "sources.queries.columns: {"],
        ),
        ({"text": "x"}, {"text": "y"}, ["column 'topic' is not there", "stages.compare reads it"]),
        (
            {"text": "x", "source_name": "z"},
            {"text": "y", "topic": "a"},
            ["'source_name'", "sources.corpus.columns: {source_name_in_file: source_name}"],
        ),
        (
            {"text": 4},
            {"text": "y", "topic": "a"},
            ["column 'text': expected text, found int", "sources.corpus.columns"],
        ),
    ],
)
def test_columns_that_do_not_fit(
    tmp_path: Path,
    corpus: dict[str, Any],
    queries: dict[str, Any],
    parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = two_sources(tmp_path)
    for name, row in (("corpus", corpus), ("queries", queries)):
        write(tmp_path / name / "a.jsonl", [row] * 3)
    refused(toy, {}, parts, monkeypatch)


@pytest.mark.parametrize("sources", ["corpus", []])
def test_sources_of_a_stage_are_a_list_of_names(sources: Any) -> None:
    from ray_pipeline.stages.cleaning.clean_text import CleanText

    with pytest.raises(TypeError, match="sources: expected a list of names, found"):
        CleanText("text", sources=sources)


def test_damaged_files_of_stages_are_made_again_and_no_others(
    command: Command, tmp_path: Path
) -> None:
    with MockServer() as server:
        toy = two_sources(tmp_path, server.base_url)
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
    run = toy.run_dir
    before = {path: (run / path).read_bytes() for path in ("index.json", "compared.json")}
    assert json.loads(before["index.json"])["made"] == 1
    looked = command("verify", run)
    assert looked.code == 0, looked.text

    # A file of one stage, the mark of another, and decisions that are needed again with it. The
    # server is gone: nothing is asked.
    (run / "compared.json").write_bytes(before["compared.json"].replace(b"corpus", b"carpus", 1))
    (folder,) = run.glob("stages/*-first")
    (folder / "done.json").write_bytes(b"")
    decisions = sorted((folder / "decisions").glob("*.parquet"))
    decisions[0].write_bytes(decisions[1].read_bytes())
    decisions[1].unlink()
    looked = command("verify", run)
    assert looked.code == 1
    for name in ("compared.json is damaged", "done.json is damaged", decisions[1].name):
        assert name in looked.out, looked.out

    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    told = _without_spaces(done.out)  # lines are folded at the width of the screen
    for line in (
        "done.json is damaged: it is empty",
        f"{decisions[0].name} is damaged: it is not what was written. The stage decides again",
        f"{decisions[1].name} is missing. The stage decides again",
    ):
        assert _without_spaces(line) in told, done.out
    after = {path: (run / path).read_bytes() for path in before}
    assert after == before  # the index was not made again: its number would be another
    looked = command("verify", run)
    assert looked.code == 0, looked.text


def _without_spaces(text: str) -> str:
    return "".join(text.split())
