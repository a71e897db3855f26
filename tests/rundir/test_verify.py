"""Every file of a run directory is looked at, and each damage is named with how to fix it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.made_qa_run import made_qa_run
from support.made_run import FOLDERS, MadeRun, made_run
from support.soak import EXAMPLES

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.checksums import Damaged, checked_json
from ray_pipeline.rundir.layout import decisions_path, part_path
from ray_pipeline.rundir.manifest import files_at, record_files
from ray_pipeline.rundir.verify import Verification

MODEL = "models/student/model.safetensors"
EXPORT = "exports/dataset.csv"


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    """A run with an exported file and a model."""
    run = made_run(str(tmp_path / "run"))
    run.storage.write_bytes(EXPORT, b"text\none\n")
    run.storage.write_bytes(MODEL, b"weights" * 100)
    record_files(run.storage, files_at(run.storage, EXPORT), rows_digest="")
    record_files(run.storage, files_at(run.storage, "models/student"), "train")
    described = [f for n in ("config.yaml", "environment.json") for f in files_at(run.storage, n)]
    record_files(run.storage, described)
    return run


def found(run: MadeRun) -> list[str]:
    return [str(finding) for finding in Verification(run.storage).findings()]


def test_a_whole_run_has_no_damage(tmp_path: Path, run: MadeRun) -> None:
    assert found(run) == []
    large = Verification(made_qa_run(str(tmp_path / "large"), 100, 20).storage)
    assert list(large.findings()) == []
    assert large.files > 50 and large.unchecked_parts == 0
    with pytest.raises(UserError, match="not a run directory"):
        list(Verification(Storage(str(tmp_path))).findings())


def flip(at: int = 60) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def cut(data: bytes) -> bytes:
    return data[:-20]


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("path", "damage", "said"),
    [
        ("ledger.json", replace(b'"kept": 5', b'"kept": 6'), "it has another checksum"),
        ("units.parquet", flip(), "units.parquet is damaged: bytes 0 to"),
        ("config.yaml", replace(b"tiny", b"tony"), "it has another checksum"),
        ("environment.json", cut, "environment.json is damaged: unexpected end"),
        (f"{FOLDERS['ask']}/done.json", cut, "it is not JSON"),
        (f"{FOLDERS['ask']}/done.json", lambda _: b"", "it is empty"),
        (EXPORT, replace(b"one", b"on"), "it has 8 bytes, and 9 were written. If it is not you"),
        (MODEL, flip(), "another checksum than when it was written. Run again: the stage train"),
        (MODEL, None, "is missing. Run again: the stage train makes it again"),
        ("files.json", cut, "files.json is damaged: it is not JSON"),
    ],
)
def test_each_kind_of_file_is_looked_at(
    run: MadeRun, path: str, damage: Callable[[bytes], bytes] | None, said: str
) -> None:
    data = run.storage.read_bytes(path)
    assert data is not None
    if damage is None:
        run.storage.delete(path)
    else:
        run.storage.write_bytes(path, damage(data))
    lines = found(run)
    assert any(line.startswith(path) and said in line for line in lines), lines


def test_parts_are_compared_with_their_units_and_with_those_before_them(run: MadeRun) -> None:
    one, two = (part_path(FOLDERS["ask"], unit.unit_id) for unit in run.units)
    whole = run.storage.read_bytes(two) or b""
    other = run.storage.read_bytes(one) or b""
    for data, said in ((other, "holds the rows of unit"), (cut(whole), "its end is missing")):
        run.storage.write_bytes(two, data)
        (line,) = found(run)
        assert line.startswith(f"{two} is damaged: it") or said in line
        assert "Run again: its unit is made again, with the stored answers" in line
    run.storage.delete(two)
    assert found(run)[0].startswith(f"{two} is missing. Run again")
    run.storage.write_bytes(two, whole)
    stranger = part_path(FOLDERS["ask"], "0" * 32)
    run.storage.write_bytes(stranger, whole)
    assert found(run) == [f"{stranger} is no part of this run. Nothing reads it: delete it"]
    run.storage.delete(stranger)
    # A stage that has not finished: parts of another version are leftovers, torn ones are damage.
    run.storage.delete(f"{FOLDERS['augment']}/done.json")
    last = part_path(FOLDERS["augment"], run.units[1].unit_id)
    torn = (run.storage.read_bytes(last) or b"")[:-1]
    run.storage.write_bytes(last, whole)
    assert found(run) == []
    run.storage.write_bytes(last, torn)
    assert len(found(run)) == 1


def test_decisions_are_those_that_the_parts_were_made_with(run: MadeRun) -> None:
    path = decisions_path(FOLDERS["augment"], run.units[0].unit_id)
    run.storage.write_bytes(path, b"others")
    assert found(run) == []  # the parts were not made with decisions
    commit_with_other_input(run)
    assert any(line.startswith(f"{path} is not what its unit") for line in found(run))


def commit_with_other_input(run: MadeRun) -> None:
    from ray_pipeline.rundir.parts import existing_part, write_part

    path = part_path(FOLDERS["augment"], run.units[0].unit_id)
    part = existing_part(run.storage, path)
    info = part.info
    write_part(
        run.storage, path, part.rows(), fingerprint=info.fingerprint, input_digest="of decisions",
        accounts=info.accounts,
    )  # fmt: skip


def test_a_journal_line_that_is_damaged_is_named(run: MadeRun) -> None:
    path = next(iter(run.storage.list("responses", recursive=True)))
    data = run.storage.read_bytes(path) or b""
    run.storage.write_bytes(path, data.replace(b'"text":"', b'"text":"x', 1))
    (line,) = found(run)
    assert line.startswith(f"{path} is damaged in line 1: ") and "are asked for again" in line


def test_a_flipped_bit_in_any_file_is_found(run: MadeRun) -> None:
    """Or what is in the file is the same: as with a blank between two values of JSON."""
    random_ = random.Random(EXAMPLES)
    paths = sorted(p for p in run.storage.list("", recursive=True) if "responses/" not in p)
    for _ in range(EXAMPLES):
        path = random_.choice(paths)
        data = run.storage.read_bytes(path) or b""
        flipped = bytearray(data)
        at = random_.randrange(len(data))
        flipped[at] ^= 1 << random_.randrange(8)
        run.storage.write_bytes(path, bytes(flipped))
        assert found(run) or same_json(data, bytes(flipped)), (path, at)
        run.storage.write_bytes(path, data)
    assert found(run) == []


def same_json(data: bytes, flipped: bytes) -> bool:
    try:
        before, after = checked_json(data), checked_json(flipped)
    except Damaged:
        return False
    # The name of the checksum may be what is damaged: the rest is what it was.
    return all(after.get(name) == value for name, value in before.items())
