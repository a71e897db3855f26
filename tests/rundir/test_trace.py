from __future__ import annotations

from pathlib import Path

import pytest
from support.made_run import TEXTS, MadeRun, made_run
from support.screen import shown

from ray_pipeline.cli.views import look as views
from ray_pipeline.core.rows import created_row_id
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.trace import trace


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return made_run(str(tmp_path / "made"))


@pytest.fixture
def reader(run: MadeRun) -> RunReader:
    return RunReader(run.storage.root)


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
    life = trace(reader, run.row_id(6))
    assert life.waits_for == ("ask",)
    assert "not through ask yet" in shown(views.trace(life, reader.ledger.status))
