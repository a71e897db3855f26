"""Secrets stay at home: no file, message or page of a run holds one."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from support.command import Command, InProcess
from support.fork_server import Started
from support.repeating_server import RepeatingServer
from support.toy_run import make_toy

#: The twelve kinds of secrets that the run below has: the variable, and its value.
KINDS = {
    # 1: an API key that `api_keys_env` names, without a shape that gives it away
    "PLANTED_API": "orchid7731marble",
    # 2: an API key with a well-known shape
    "OPENAI_API_KEY": "sk-proj-Zk19aa83hhQ7mmPq20",
    # 3: the user and 4: the password of a server's URL, with characters that URLs escape
    "PLANTED_USER": "gatekeeper+one",
    "PLANTED_LOGIN": "p@ss/w:ord 91\"quoted'",
    # 5: a parameter of a server's URL
    "PLANTED_PARAMETER": "param&value=44xyz",
    # 6: a header
    "PLANTED_HEADER": "header-value-5501",
    # 7: a field of the request's body, deep inside
    "PLANTED_BODY": 'body\\token"6612',
    # 8: an argument of a local engine
    "PLANTED_ENGINE": "engine-argument-7723",
    # 9: the token of the model hub
    "HF_TOKEN": "hf_QwErTyUiOpAsDfGh1234",
    # 10: the secret key of object storage
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzz",
    # 11: the password of a proxy
    "https_proxy": "http://proxyuser:proxy-password-88@127.0.0.1:9",
    # 12: the token of some other service, that a stage's error quotes
    "PLANTED_SERVICE_TOKEN": "service-token-99-abc",
}
VALUES = {name: value for name, value in KINDS.items() if name != "https_proxy"}
VALUES["https_proxy"] = "proxy-password-88"

PLAIN = ["good 1", "good 2", "error-400 a", "error-422 b", "error-500 c", "not-json d", "leak e"]
PLAIN += ["leak ef", "leak efg", "leak efgh", "in-plain-words f", "error-429 g", "bad-answer h"]


def spellings(value: str) -> set[str]:
    """A value as files may spell it."""
    return {value, quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1]}


def texts_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder as text: the cells and the metadata of Parquet files too."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        yield name, raw.decode("utf-8", "replace")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            for row in table.to_pylist():
                for cell in row.values():
                    yield name, str(cell)
            yield name, str(pq.read_metadata(path).metadata)


def found_in(texts: Iterator[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which secrets are where."""
    known = {name: spellings(value) for name, value in VALUES.items()}
    return {
        (where, name)
        for where, text in texts
        for name, forms in known.items()
        if any(form in text for form in forms)
    }


def job(folder: Path, host: str, texts: list[str], name: str) -> str:
    """A configuration with all that it can name of the kinds; returns its file's name."""
    (folder / name).mkdir()
    url = f"http://${{PLANTED_USER}}:${{PLANTED_LOGIN}}@{host}/v1?key=${{PLANTED_PARAMETER}}"
    llm: dict[str, Any] = {
        "engine": "openai",
        "model": "m",
        "max_tries": 2,
        "max_backoff_seconds": 0.05,
        "headers": {"X-Api-Key": "${PLANTED_HEADER}"},
        "extra_body": {"provider": {"options": [{"token": "Bearer ${PLANTED_BODY}"}]}},
        "engine_args": {"hf_token": "${PLANTED_ENGINE}"},
    }
    keys = {"base_url": f"http://{host}/v1", "api_keys_env": ["PLANTED_API", "OPENAI_API_KEY"]}
    with_keys = name == "keys"
    login = {"base_url": url, "api_keys_env": []}
    of_one = ["PLANTED_API"] if with_keys else ["PLANTED_USER", "PLANTED_LOGIN"]
    of_one += [] if with_keys else ["PLANTED_PARAMETER"]
    quotes = [*of_one, "PLANTED_HEADER", "PLANTED_BODY", "PLANTED_ENGINE", "PLANTED_SERVICE_TOKEN"]
    quotes += ["https_proxy", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HF_TOKEN"]
    make_toy(
        folder / name,
        texts,
        pipeline="toy_leaky",
        llms={"mock": llm | (keys if with_keys else login)},
        stages={"ask": {"llm": "mock", "prompt": "ask"}, "leak": {"quotes": quotes}},
        budget={"max_failed_rows": "100%"},
        unit_rows=4,
    )
    return f"{name}/config.yaml"


def test_twelve_kinds_of_secrets_are_in_nothing_that_a_run_writes_or_prints(
    tmp_path: Path,
) -> None:
    # Ray's own files, too; its sockets there need a short path.
    with RepeatingServer() as server, tempfile.TemporaryDirectory() as of_ray:
        login = job(tmp_path, server.host, PLAIN, "login")
        keys = job(tmp_path, server.host, PLAIN, "keys")
        refused = job(tmp_path, server.host, ["error-401 all"] * 6, "refused")
        down = job(tmp_path, "127.0.0.1:9", ["good"], "down")
        commands = [f"plan {login}", f"run {login}", f"run {keys}", f"run {refused}", f"run {down}"]
        commands += ["status login/run", "rows login/run ask --limit 50"]
        commands += ["rows keys/run ask --json", "report keys/run", "diff login/run keys/run"]
        commands += ["rows login/run leak --status failed", "diff login/run keys/run --json"]
        environment = {**os.environ, **KINDS, "RAY_TMPDIR": of_ray}
        started = Started("support.commands_in_turn", commands, tmp_path, environment)
        out, err = started.communicate(timeout=180)
        arrived = "\n".join(server.arrived)
        logged = list(texts_in(Path(of_ray)))

    assert [line for line in out.splitlines() if line.startswith("exit ")] == [
        f"exit {code}" for code in (0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0)
    ], out + err
    assert "Traceback" not in out + err
    # They were sent where they belong.
    sent = ("PLANTED_API", "OPENAI_API_KEY", "PLANTED_USER", "PLANTED_LOGIN", "PLANTED_HEADER")
    for name in (*sent, "PLANTED_BODY", "PLANTED_PARAMETER"):
        assert any(form in arrived for form in spellings(VALUES[name])), name
    # What a server repeated is there, without them.
    rows = [row for _, row in texts_in(tmp_path / "login" / "run")]
    assert any("You said POST" in row and "[hidden]" in row for row in rows)
    assert any("bad request: POST" in row and "[hidden]" in row for row in rows)
    assert any("no login with [hidden]" in row for row in rows)
    assert "${PLANTED_LOGIN}" in (tmp_path / "login/run/config.yaml").read_text()
    assert "${PLANTED_LOGIN}" in (tmp_path / "login/run/report.html").read_text()

    assert logged and found_in(iter(logged)) == set()
    assert found_in(iter([("printed", out + err)])) == set()
    for folder in ("login", "keys", "refused", "down"):
        assert found_in(texts_in(tmp_path / folder / "run")) == set()


# --------------------------------------------------------------------------- plain text

SECRET = "orchid7731marble"
#: Settings that are refused: the model's fields or other keys, and what the message must say.
PLAIN_TEXT = [
    ({"base_url": f"http://me:{SECRET}@host/v1"}, "llms.mock.base_url", "${USER}:${PASSWORD}@"),
    ({"base_url": f"http://{SECRET}@host/v1"}, "llms.mock.base_url", "${USER}:${PASSWORD}@"),
    ({"base_url": f"http://host/v1?key={SECRET}"}, "llms.mock.base_url", "?key=${MY_KEY}"),
    ({"extra_body": {"a": [{"token": SECRET}]}}, "llms.mock.extra_body.a.0.token", "${MY_KEY}"),
    ({"headers": {"X-Api-Key": SECRET}}, "llms.mock.headers.X-Api-Key", "${MY_KEY}"),
    ({"engine_args": {"hf_token": SECRET}}, "llms.mock.engine_args.hf_token", "${MY_KEY}"),
    ({"api_keys_env": [f"sk-{SECRET}"]}, "llms.mock.api_keys_env.0", "variable's name"),
    ({"api_keys_env": [f"{SECRET}=="]}, "llms.mock.api_keys_env", "names of environment variables"),
    ({"run_dir": f"s3://AKID:{SECRET}@bucket/run"}, "run_dir", "AWS_SECRET_ACCESS_KEY"),
    ({"source": {"path": f"s3://AKID:{SECRET}@b/x.csv"}}, "source.path", "AWS_ACCESS_KEY_ID"),
]


@pytest.mark.parametrize(("settings", "key", "way_out"), PLAIN_TEXT)
def test_a_secret_as_plain_text_is_refused_with_the_way_to_write_it(
    settings: dict[str, Any], key: str, way_out: str, tmp_path: Path
) -> None:
    llm = {
        "engine": "openai",
        "model": "m",
        "base_url": "http://127.0.0.1:9/v1",
        "api_keys_env": [],
    }
    of_job = {name: value for name, value in settings.items() if name in ("run_dir", "source")}
    llm |= {name: value for name, value in settings.items() if name not in of_job}
    stages = {"ask": {"llm": "mock", "prompt": "ask"}}
    toy = make_toy(tmp_path, ["a"], "toy_ask", llms={"mock": llm}, stages=stages, **of_job)
    for done in InProcess(tmp_path).both(toy.config_file):
        assert done.code == 2
        assert key in done.err and way_out in " ".join(done.err.split())
        assert SECRET not in done.text
    assert not toy.run_dir.exists()


def test_a_secret_on_the_command_line_is_not_shown(tmp_path: Path) -> None:
    toy = make_toy(tmp_path, ["a"])
    command = InProcess(tmp_path)
    uri = f"s3://AKID:{SECRET}@bucket/run"
    calls: list[tuple[Any, ...]] = [("status", uri), ("diff", uri, "run"), ("retry", uri)]
    calls += [("run", toy.config_file, "--run-dir", uri), ("report", uri)]
    calls += [("run", toy.config_file, "--set", f"source.password={SECRET}: x")]
    calls += [("run", toy.config_file, "--set", f"llms.m={{base_url: 'http://a:{SECRET}@b/v1'}}")]
    for call in calls:
        done = command(*call)
        assert done.code == 2, call
        assert SECRET not in done.text


def test_a_variable_that_is_not_set_is_named_before_anything_runs(tmp_path: Path) -> None:
    llm: dict[str, Any] = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    llm |= {"api_keys_env": [], "headers": {"X-Key": "${PLANTED_NOWHERE}"}}
    stages = {"ask": {"llm": "mock", "prompt": "ask"}}
    toy = make_toy(tmp_path, ["a"], "toy_ask", llms={"mock": llm}, stages=stages)
    for done in InProcess(tmp_path).both(toy.config_file):
        assert done.code == 2
        assert "llms.mock.headers.X-Key: the environment variable PLANTED_NOWHERE" in done.err
    done = InProcess(tmp_path)("plan", toy.config_file, PLANTED_NOWHERE="value-of-it")
    assert done.code == 0, done.text


def test_a_run_directory_that_holds_a_secret_continues_with_it_and_hides_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RepeatingServer() as server:
        llm: dict[str, Any] = {"engine": "openai", "model": "m", "api_keys_env": [], "max_tries": 2}
        llm |= {"base_url": f"http://{server.host}/v1?key=param-{SECRET}"}
        llm |= {"extra_body": {"api_key": SECRET}, "max_backoff_seconds": 0.05}
        texts = ["good 1", "error-400 2"]
        toy = make_toy(
            tmp_path,
            texts,
            "toy_ask",
            llms={"mock": llm},
            stages={"ask": {"llm": "mock", "prompt": "ask"}},
            budget={"max_failed_rows": "100%"},
        )
        with monkeypatch.context() as patch:  # as a version that refused nothing made it
            patch.setattr("ray_pipeline.pipeline._check_secrets", lambda *_: None)
            first = command("run", toy.config_file)
        before = len(server.arrived)
        again = command("run", toy.config_file)
        assert len(server.arrived) == before
        retried = command("retry", toy.run_dir, "--job", toy.job)
        assert len(server.arrived) > before, first.text + retried.text
        report = command("report", toy.run_dir)
    for done in (first, again, retried, report):
        assert done.code == 0, done.text
        assert SECRET not in done.text
    assert all(stage["reused"] for stage in toy.ledger()["stages"][:2])
    found = {name for name, text in texts_in(toy.run_dir) if SECRET in text}
    assert found == {"config.yaml"}

    # Another configuration with the same secret is another matter.
    toy.change(run_dir=str(tmp_path / "other"))
    assert command("run", toy.config_file).code == 2
