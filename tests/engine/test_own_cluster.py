"""A cluster that a run starts: closed to the network, and gone without a trace."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

from ray_pipeline.core.processes import process_identity
from ray_pipeline.engine import ray_sessions


@contextlib.contextmanager
def on_terminal(toy: Toy, temporary: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A run on a cluster of its own, on a terminal; gives the process and the terminal."""
    master, slave = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_pipeline.cli.app", "run", str(toy.config_file)]
        + ["--address", "local"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=temporary,
        env={**environment, "RAY_TMPDIR": str(temporary), "PYTHONPATH": os.environ["PYTHONPATH"]},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    try:
        yield process, master
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
        process.wait(60)


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def listening(pid: int) -> set[tuple[str, int]]:
    """Where a process and those that it started listen: address and port."""
    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            sockets = process.net_connections(kind="inet")
            found |= {(s.laddr.ip, s.laddr.port) for s in sockets if s.status == psutil.CONN_LISTEN}
    return found


def open_to_others(besides: int) -> set[int]:
    """Ports on which other processes than this one and its children listen to the network."""
    family = {p.pid for p in psutil.Process(besides).children(recursive=True)} | {besides}
    return {
        s.laddr.port
        for s in psutil.net_connections(kind="inet")
        if s.status == psutil.CONN_LISTEN
        and s.pid not in family
        and not s.laddr.ip.removeprefix("::ffff:").startswith("127.")
    }


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("way", ["hang up", "SIGTERM"])
def test_it_listens_to_this_machine_alone_and_a_closed_terminal_ends_it_as_ctrl_c_does(
    tmp_path_factory: pytest.TempPathFactory, way: str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    temporary = Path(f"/tmp/rp-{os.getpid()}-{way[0]}")  # Ray's sockets need a short path
    temporary.mkdir()
    with MockServer(latency=1.0) as server:
        llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
        toy = make_toy(
            folder,
            [f"text {i}" for i in range(200)],
            pipeline="toy_ask",
            llms={"mock": {**llm, "concurrency": 2}},
            stages={"ask": {"llm": "mock", "prompt": "ask"}},
        )
        with on_terminal(toy, temporary) as (process, terminal):
            wait_until(lambda: server.stats()["completed"] >= 2)
            places = listening(process.pid)
            assert len(places) >= 5
            assert {ip.removeprefix("::ffff:") for ip, _ in places} == {"127.0.0.1"}
            outside = [
                address.address
                for addresses in psutil.net_if_addrs().values()
                for address in addresses
                if address.family == socket.AF_INET and not address.address.startswith("127.")
            ]
            # Another cluster on this machine may hold a port of the same number, on the network's
            # address: Ray's agents take 52365 where it is free. That one accepts, not ours.
            theirs = open_to_others(besides=process.pid)
            tried = [port for _, port in places if port not in theirs]
            assert len(tried) >= 4
            for port in tried:
                assert accepts("127.0.0.1", port)  # so the refusal is not that of a dead port
                assert not any(accepts(host, port) for host in outside)
            children = psutil.Process(process.pid).children(recursive=True)
            if way == "hang up":
                os.close(terminal)
            else:
                process.terminate()
            assert process.wait(90) == 130
        completed = server.stats()["completed"]
    ledger = json.loads((toy.run_dir / "ledger.json").read_text())
    assert ledger["status"] == "interrupted" and ledger["message"] == "stopped by the user"
    answers = [p.read_text().count('"text"') for p in toy.run_dir.rglob("responses/**/*.jsonl")]
    assert sum(answers) == completed
    wait_until(lambda: not any(child.is_running() for child in children), 30)
    assert [path for path in temporary.rglob("*") if path.is_file() or path.is_socket()] == []
    assert not (temporary / "ray" / "session_latest").is_symlink()
    shutil.rmtree(temporary)


def test_folders_of_sessions_are_removed_when_their_process_has_ended_a_day_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identities = {"ended": process_identity(ended.pid), "lives": process_identity(os.getpid())}
    ended.communicate()
    for name in ("ended-old", "ended-new", "lives-old", "foreign-old"):
        session = tmp_path / "ray" / f"session_{name}"
        (session / "sockets").mkdir(parents=True)
        who, age = name.split("-")
        if who != "foreign":
            mark = session / "ray-pipeline"
            mark.write_text(str(identities[who]))
            if age == "old":
                os.utime(mark, (time.time() - 100_000,) * 2)
    ray_sessions.remove_left_sessions()
    left = sorted(path.name for path in (tmp_path / "ray").iterdir())
    assert left == ["session_ended-new", "session_foreign-old", "session_lives-old"]
