"""What keeps Ray from starting or from being joined is found before it is tried."""

from __future__ import annotations

import resource
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Command
from support.toy_run import make_toy

from ray_pipeline.core.errors import UserError
from ray_pipeline.engine.ray_environment import (
    ClusterAddress,
    check_machine,
    check_workers_folder,
    cluster_address,
)


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's temporary folder, whose path is short, with no cluster's address in it or around."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        yield Path(folder) / "ray"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine where nothing listens, and nothing will meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_the_address_is_the_first_that_is_given(
    ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster_address(None) is None
    (ray_folder / "ray_current_cluster").write_text("10.0.0.3:6379\n")
    assert cluster_address("local") is None
    for configured in (None, "", "auto"):
        found = cluster_address(configured)
        assert found is not None and found.value == "10.0.0.3:6379"
        assert str(ray_folder / "ray_current_cluster") in found.origin
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    found = cluster_address(None)
    assert found is not None and found.value == "10.0.0.2:6379"
    assert "RAY_ADDRESS" in found.origin and "unset RAY_ADDRESS" in found.otherwise
    found = cluster_address("10.0.0.1:6379")
    assert found is not None and found.value == "10.0.0.1:6379"
    assert cluster_address("local") is None


def test_auto_needs_a_cluster_that_ray_start_started(
    ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match=r"RAY_ADDRESS: 'auto' is the cluster.*--address local"):
        cluster_address(None)


@pytest.mark.parametrize(
    "value", ["nonsense", "http://10.0.0.1:6379", "10.0.0.1", "host:port", "a b:1", ":6379"]
)
def test_what_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"HERE: .*is not the address of a Ray cluster: give HOST"):
        ClusterAddress(value, "HERE", "or do without").check()


def test_an_address_where_nothing_listens_is_refused_at_once(closed_port: int) -> None:
    for value in (f"127.0.0.1:{closed_port}", f"ray://127.0.0.1:{closed_port}", "127.0.0.1:99999"):
        with pytest.raises(UserError, match=r"no Ray cluster at .* \(HERE\) answers: .*or do with"):
            ClusterAddress(value, "HERE", "or do without").check()


def test_a_long_temporary_folder(
    tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_machine()
    long = Path("/tmp") / ("ü" * 30)
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(UserError, match=r"RAY_TMPDIR: the path /tmp/ü+ has 65 bytes.*room for 4\d"):
        check_machine()
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", str(long))
    with pytest.raises(UserError, match=r"TMPDIR: the path .*: set RAY_TMPDIR to a folder with"):
        check_machine()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_machine()


def test_a_temporary_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    with pytest.raises(UserError, match=r"temporary folder /proc/none/ray cannot be used.*RAY_TMP"):
        check_machine()


@pytest.mark.parametrize(
    ("variables", "is_refused"),
    [
        ({"HOME": "/dev/null"}, True),
        ({"HOME": "/proc/none"}, True),
        ({"HOME": "/dev/null", "RAY_AUTH_TOKEN": "a" * 64}, False),
        ({"HOME": "/dev/null", "RAY_AUTH_MODE": "disabled"}, False),
    ],
)
def test_a_home_that_cannot_be_written(
    ray_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    is_refused: bool,
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if is_refused:
        with pytest.raises(UserError, match=r"the token of its clusters.*: set HOME to a folder"):
            check_machine()
    else:
        check_machine()


def test_too_few_open_files(ray_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (128, 4096))
    with pytest.raises(UserError, match=r"128 open files .*ulimit -n"):
        check_machine()


def test_a_file_that_shadows_a_module_in_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_workers_folder()
    (tmp_path / "random.py").touch()
    with pytest.raises(UserError, match=r"/random\.py has the name of the module 'random'"):
        check_workers_folder()


def test_the_address_of_a_dead_cluster_ends_the_run_with_a_message(
    ray_folder: Path, closed_port: int, tmp_path: Path
) -> None:
    file = ray_folder / "ray_current_cluster"
    file.write_text(f"127.0.0.1:{closed_port}")
    toy = make_toy(tmp_path, ["one"])
    done = Command(None, tmp_path)("run", toy.config_file, timeout=60)
    assert done.code == 2, done.text
    assert done.err.startswith(f"error: no Ray cluster at 127.0.0.1:{closed_port} (the file {file}")
    assert "delete that file" in done.err and "Traceback" not in done.text
    assert toy.ledger()["status"] == "failed"


def test_ctrl_c_ends_a_run_that_waits_for_a_cluster(ray_folder: Path, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, ["one"])
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = Command(None, tmp_path).start("run", toy.config_file, "--address", address)
        assert f"joining the Ray cluster at {address}" in process.stdout.readline()
        time.sleep(1.0)  # until Ray's native code waits
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert toy.ledger()["status"] == "interrupted"
