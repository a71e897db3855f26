from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from rich.console import Console
from support.made_qa_run import CONFIG, Row, made_qa_run
from support.made_run import MadeRun

from ray_pipeline.cli.views import diff as run_diff_views
from ray_pipeline.rundir import diff as run_diff
from ray_pipeline.rundir.diff import RunDiff, diff
from ray_pipeline.rundir.layout import segment_folder
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.rundir.reader import RunReader

FIRST = 1  # position of a row that nothing else drops


def drop_one(stage: str, row: Row) -> None:
    if stage == "clean-text" and row["position"] == FIRST:
        row["status"], row["reason"] = "dropped", "text:short: one word"


def rewrite_two(stage: str, row: Row) -> None:
    if stage == "clean-text" and row["position"] in (2, 33):
        row["answer"] = "another answer"


def compare(a: MadeRun, b: MadeRun) -> RunDiff:
    return diff(RunReader(a.storage.root), RunReader(b.storage.root))


def shown(found: RunDiff, as_json: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120)
    run_diff_views.print_diff(console, found, as_json)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def reconfigure(run: MadeRun, **keys: object) -> None:
    run.storage.write_bytes("config.yaml", yaml.safe_dump({**CONFIG, **keys}).encode())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return made_qa_run(str(tmp_path_factory.mktemp("a")), 100, 20)


def test_a_run_does_not_differ_from_itself(run: MadeRun) -> None:
    found = compare(run, run)
    assert not found.config and not found.environment and not found.metrics
    assert all(stage.same_fingerprint and not stage.is_changed for stage in found.stages)
    assert found.rows.both == run.accounts["accept-paraphrases"].kept
    assert (found.rows.only_a, found.rows.only_b, found.rows.changed) == (0, 0, 0)
    assert "nothing differs" in shown(found)


def test_a_dropped_row_is_found_with_what_was_made_of_it(run: MadeRun, tmp_path: Path) -> None:
    found = compare(run, made_qa_run(str(tmp_path), 100, 20, change=drop_one))
    rows = found.rows
    lost = rows.only_a
    assert lost >= 2 and rows.only_b == 0 and rows.changed == 0
    assert rows.why_only_a == {
        "never made; the row it was made of: dropped by clean-text: text:short": lost - 1,
        "dropped by clean-text: text:short": 1,
    }
    assert len(rows.examples_a) == min(lost, 5)
    assert "case 1?" in rows.examples_a[0].texts["question"]
    stage = next(stage for stage in found.stages if stage.name == "clean-text")
    assert [(change.key, change.a, change.b) for change in stage.reasons()] == [
        ("text:short", 0, 1)
    ]
    text = shown(found)
    assert "text:short" in text and "(-1)" in text and f"{lost} only in A" in text
    other_way = diff(RunReader(str(tmp_path)), RunReader(run.storage.root)).rows
    assert (other_way.only_a, other_way.only_b) == (0, lost)
    assert other_way.why_only_b == rows.why_only_a


@pytest.mark.parametrize("unit_rows", [20, 33])
def test_rows_with_another_text_are_found(run: MadeRun, tmp_path: Path, unit_rows: int) -> None:
    found = compare(run, made_qa_run(str(tmp_path), 100, unit_rows, change=rewrite_two)).rows
    assert found.only_a == found.only_b == 0
    assert found.changed >= 2
    for example in found.examples_changed:
        before, after = example.columns["answer"]
        assert before.startswith("They show") and after == "another answer"
        assert "question" not in example.columns


def test_runs_of_other_units_are_compared_by_ranges_of_ids(
    run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made_qa_run(str(tmp_path), 100, 33, change=drop_one)
    at_once = compare(run, other).rows
    monkeypatch.setattr(run_diff, "_ROWS_AT_A_TIME", 9)
    assert compare(run, other).rows == at_once
    assert at_once.only_a >= 2 and at_once.both == other.accounts["accept-paraphrases"].kept


def test_appended_rows_are_only_in_the_run_that_has_them(tmp_path: Path, run: MadeRun) -> None:
    found = compare(made_qa_run(str(tmp_path), 60, 20), run).rows
    assert found.only_a == 0 and found.only_b > 0
    assert found.why_only_b == {"never there": found.only_b}


def identify(run: MadeRun, identities: dict[str, Any]) -> None:
    """Say what stages' fingerprints were made of, as the engine does."""
    for entry in run.ledger.entries:
        if (identity := identities.get(entry.account.name)) is not None:
            folder = segment_folder(entry.index, entry.account.name)
            made_of = {entry.account.name: identity}
            Done(entry.fingerprint, "", "", 0, [], made_of).save(run.storage, folder)


def test_keys_of_the_configuration_say_what_they_change(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path / "a"), 100, 20)
    other = made_qa_run(str(tmp_path / "b"), 100, 20)
    writer = {**CONFIG["llms"]["writer"], "temperature": 0.2, "concurrency": 8}  # type: ignore[index]
    stages = {"augment-formal": {"llm": "writer", "actors": 2, "threshold": 0.5}}
    reconfigure(other, seed=8, run_dir="b", llms={"writer": writer}, stages=stages)
    llm = {"model": "writer", "temperature": 0.7}
    formal = {"config": {"threshold": 0.4}, "prompt": {"user": "p"}, "llm": llm}
    identify(run, {"augment-formal": formal, "augment-typos": {"off": True}})
    llm, config = {**llm, "temperature": 0.2}, {"threshold": 0.5}
    identify(other, {"augment-formal": {**formal, "config": config, "llm": llm}})
    effects = {change.key: change.effect for change in compare(run, other).config}
    assert effects == {
        "run_dir": "execution",
        "seed": "identity",
        "llms.writer.temperature": "identity",
        "llms.writer.concurrency": "execution",
        "stages.augment-formal.actors": "execution",
        "stages.augment-formal.threshold": "identity",
        "stages.augment-casual.llm": None,
        "stages.augment-typos.llm": None,
    }


def test_what_a_key_changes_is_not_known_of_runs_that_do_not_say(
    run: MadeRun, tmp_path: Path
) -> None:
    other = made_qa_run(str(tmp_path), 100, 20)
    writer = {**CONFIG["llms"]["writer"], "concurrency": 8}  # type: ignore[index]
    reconfigure(other, llms={"writer": writer}, budget={"max_tokens": 9})
    effects = {change.key: change.effect for change in compare(run, other).config}
    assert effects == {"llms.writer.concurrency": None, "budget.max_tokens": "execution"}


def test_a_stage_that_one_run_turned_off_changes_rows(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path / "a"), 100, 20)
    other = made_qa_run(str(tmp_path / "b"), 100, 20)
    reconfigure(other, stages={**CONFIG["stages"], "augment-typos": {"enabled": False}})  # type: ignore[dict-item]
    identify(run, {"augment-typos": {"config": {}}})
    identify(other, {"augment-typos": {"off": True}})
    effects = {change.key: change.effect for change in compare(run, other).config}
    assert effects["stages.augment-typos.enabled"] == "identity"


def test_stages_that_one_run_lacks_stand_where_it_had_them(run: MadeRun, tmp_path: Path) -> None:
    other = made_qa_run(str(tmp_path), 100, 20)
    other.ledger.entries[5].fingerprint = "another"
    entry = other.ledger.entries.pop(3)
    found = compare(run, other.save())
    names = [stage.name for stage in found.stages]
    assert names == list(run.accounts)
    assert found.stages[3].b is None and found.stages[3].name == entry.account.name
    assert not found.stages[5].same_fingerprint
    text = shown(found)
    assert "only in A" in text and "not the same stage or input" in text


def test_metrics_and_environment_differ_by_key(run: MadeRun, tmp_path: Path) -> None:
    other = made_qa_run(str(tmp_path), 100, 20)
    metrics = {"student": {"bleu": 21.5}}
    other.storage.write_bytes("metrics.json", orjson.dumps(metrics))
    other.storage.write_bytes("environment.json", orjson.dumps({"packages": {"ray": "2.61.0"}}))
    found = compare(run, other)
    assert [(c.key, c.a, c.b) for c in found.metrics] == [("student.bleu", None, 21.5)]
    assert ("packages.ray", "2.60.0", "2.61.0") in [(c.key, c.a, c.b) for c in found.environment]
    both = diff(RunReader(str(tmp_path)), RunReader(str(tmp_path)))
    assert not both.metrics
    assert "student.bleu" in shown(found)


def test_runs_that_did_not_come_to_their_end(run: MadeRun, tmp_path: Path) -> None:
    stopped = made_qa_run(str(tmp_path / "b"), 100, 20, until="deduplicate").save("interrupted")
    found = compare(run, stopped)
    assert found.status == ("succeeded", "interrupted")
    assert found.rows.both == stopped.accounts["deduplicate"].kept
    assert found.rows.columns_a == ["version", "source_question", "source_answer", "similarity"]
    empty = made_qa_run(str(tmp_path / "c"), 0)
    assert compare(empty, empty).rows.both == 0
    assert compare(run, empty).rows.only_a == run.accounts["accept-paraphrases"].kept
