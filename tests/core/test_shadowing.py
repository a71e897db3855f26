"""Files that shadow a module: found by name, and told before anything else is imported."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ray_pipeline.core.shadowing import shadowing_file


@pytest.mark.parametrize(
    "name", ["random.py", "datasets/__init__.py", "torch.cpython-311-x86_64-linux-gnu.so", "ray.py"]
)
def test_a_file_that_shadows_is_found(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert shadowing_file(str(tmp_path)) == str(tmp_path / name.partition("/")[0])


@pytest.mark.parametrize(
    "name",
    [
        "datasets/train.csv",  # a folder without __init__.py does not hide an installed package
        "random.txt",
        "my_random.py",
        "tests/__init__.py",  # some packages install a module of this name, which nobody imports
        "os.py",  # has been imported before Python looks here
        "sys.py",
        "turtle.py",  # no run imports it
        "site-packages/random.py",
    ],
)
def test_a_file_that_does_no_harm_is_not(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert shadowing_file(str(tmp_path)) is None


def test_folders_that_python_itself_looks_into_are_not_searched() -> None:
    paths = sysconfig.get_paths()
    for name in ("stdlib", "platstdlib", "purelib"):
        assert shadowing_file(paths[name]) is None
    assert shadowing_file(f"{paths['platstdlib']}/lib-dynload") is None
    assert shadowing_file("/no/such/folder") is None


@pytest.mark.parametrize("shadow", ["random.py", "torch.py"])
def test_a_script_beside_such_a_file_ends_with_one_message(tmp_path: Path, shadow: str) -> None:
    (tmp_path / shadow).touch()
    script = tmp_path / "job.py"
    script.write_text("from ray_pipeline.pipeline import Pipeline\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / shadow} has the name of the module")
    assert done.stderr.count("\n") == 1
    # As a library it is an ImportError that can be handled.
    script.write_text("try:\n import ray_pipeline\nexcept ImportError as error:\n print(error)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path / shadow) in done.stdout


def test_folders_that_others_put_first_are_not_checked(tmp_path: Path) -> None:
    # Ray puts its own copies of packages first when it is imported.
    (tmp_path / "psutil.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import ray_pipeline"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
