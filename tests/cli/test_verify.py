from __future__ import annotations

from pathlib import Path

from support.command import InProcess
from support.made_run import made_run

from ray_pipeline.rundir.layout import part_path


def test_the_exit_code_says_whether_anything_is_damaged(tmp_path: Path) -> None:
    run = made_run(str(tmp_path / "run"))
    command = InProcess(tmp_path)
    done = command("verify", "run")
    assert done.code == 0, done.text
    assert "files were looked at: no damage" in done.out
    path = part_path(run.folder("tidy"), run.units[0].unit_id)
    run.storage.write_bytes(path, b"")
    run.storage.delete(part_path(run.folder("augment"), run.units[1].unit_id))
    before = sorted(run.storage.files("", recursive=True), key=lambda file: file.path)
    done = command("verify", "run")
    assert done.code == 1, done.text
    first, second, last = done.out.splitlines()
    assert first.startswith(f"{path} is damaged: it is empty. Run again: its unit is made again")
    assert " is missing. Run again" in second
    assert last.endswith("files were looked at: 2 damaged")
    after = sorted(run.storage.files("", recursive=True), key=lambda file: file.path)
    assert after == before  # nothing is changed
    assert command("verify", "nothing").code == 2
