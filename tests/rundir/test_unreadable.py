"""Files that a power loss has torn count as not done, and are told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from support.local_tables import tables

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.trainings import Curve, read_curve
from ray_pipeline.rundir.unreadable import read_json, read_json_lines, telling
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.tune.trials import Parameters, TrialRecord, Trials

TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: b"\xff" + data,
}
torn = pytest.mark.parametrize("how", TORN)


def tear(storage: Storage, path: str, how: str) -> None:
    storage.write_bytes(path, TORN[how](storage.read_bytes(path) or b""))


@torn
def test_a_torn_step_of_a_decision_is_made_again(tmp_path: Path, how: str) -> None:
    storage = Storage(str(tmp_path))
    part = pa.table({"ref": pa.array([0, 1, 2], pa.int64())})
    made = tables(tmp_path, [part])
    first = made.map(_same).saved()._saved().load(storage, 0)
    (path,) = storage.list("work", recursive=True)
    tear(storage, path, how)
    again = tables(tmp_path, [part]).map(_same).saved()._saved()
    if how == "garbage":  # no power loss leaves an end that is whole
        with pytest.raises(RunError, match=r"cannot read .*Run again"):
            again.load(storage, 0)
        again = tables(tmp_path, [part]).map(_same).saved()._saved()
    assert again.load(storage, 0) == first


def _same(table: pa.Table) -> pa.Table:
    return table


@torn
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, how: str) -> None:
    storage, said = Storage(str(tmp_path)), list[str]()
    checkpoints = Checkpoints(storage)
    checkpoints.save(1, {"step": 1})
    checkpoints.save(2, {"step": 2})
    tear(storage, "checkpoints/step-00000002.pt", how)
    with telling(said.append):
        assert checkpoints.latest() == {"step": 1}
    assert len(said) == 1 and "step-00000002.pt cannot be read" in said[0]


@torn
def test_torn_trials_are_tried_again(tmp_path: Path, how: str) -> None:
    storage = Storage(str(tmp_path))
    parameters = Parameters(alpha=1, beta=1, temperature=1, learning_rate=1)
    trials = Trials(storage, "trials.jsonl", "study")
    for number in range(3):
        trials.add(TrialRecord(number, "finished", parameters, ((1, 0.5),), 1.0))
    tear(storage, "trials.jsonl", how)
    left = Trials(storage, "trials.jsonl", "study").records
    assert left == trials.records[: len(left)] and len(left) == (how == "half")


@torn
def test_a_torn_curve_is_continued(tmp_path: Path, how: str) -> None:
    storage = Storage(str(tmp_path))
    curve = Curve(storage, "curve.jsonl")
    for step in range(1, 5):
        curve.add({"step": step, "loss": 1.0})
    curve.save()
    tear(storage, "curve.jsonl", how)
    curve = Curve(storage, "curve.jsonl")
    curve.add({"step": 5, "loss": 1.0})
    curve.save()
    steps = [line["step"] for line in read_curve(storage, "curve.jsonl")]
    assert steps == ([1, 2, 5] if how == "half" else [5])


def test_json_that_is_there_is_read(tmp_path: Path) -> None:
    storage, said = Storage(str(tmp_path)), list[str]()
    storage.write_bytes("a", b'{"b": 1}')
    with telling(said.append):
        assert read_json(storage, "a") == {"b": 1}
        assert read_json_lines(storage, "a") == [{"b": 1}]
        assert read_json(storage, "c") is None and read_json_lines(storage, "c") == []
    assert said == []
