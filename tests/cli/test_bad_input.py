"""What bad input gets: the table of section 11 of the design, through the command line.

An error is one message with a mend and an exit code, never a trace, and it comes before rows move.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.command import Command, Finished, InProcess
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

KEY = "sk-mock-7f3a9c1d5e8b2046"


@pytest.fixture
def alone(tmp_path: Path) -> Command:
    """The command in this process; what these tests do ends before a cluster is needed."""
    return InProcess(tmp_path)


def qa_config(folder: Path, path: Path | list[Path], **keys: Any) -> Path:
    """A configuration of the real job; its model is never asked."""
    paths = [path] if isinstance(path, Path) else path
    config = {
        "name": "qa-distillation",
        "run_dir": str(folder / "run"),
        "until": "accept-paraphrases",
        "source": {"path": [str(one) for one in paths]},
        "llms": {"none": {"engine": "openai", "model": "m", "api_keys_env": ["NOT_SET_ANYWHERE"]}},
        "stages": {
            "fill-in-blank": {"llm": "none", "prompt": "fill_in_blank"},
            "multiple-choice": {"llm": "none", "prompt": "multiple_choice"},
        },
    }
    for key, value in keys.items():
        old = config.get(key)
        config[key] = {**old, **value} if isinstance(old, dict) else value
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def assert_refused(done: Finished, run_dir: Path, *parts: str, code: int = 2) -> None:
    """The command ended with this code and one message, and no row has moved."""
    assert done.code == code, done.text
    assert "Traceback" not in done.text
    assert done.err.startswith("error: "), done.err
    for part in parts:
        assert part in done.err, done.err
    assert not (run_dir / "stages").exists()


# --------------------------------------------------------------------------- the source

GOOD_CSV = b"question,answer\nWhat is it?,This\n"


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("qx.csv", None, ["qx.csv: there is no such file or directory", "did you mean 'qa.csv'?"]),
        ("a.parquet", GOOD_CSV, ["a.parquet: expected Parquet", "question,answer"]),
        ("a.csv", b"PAR1....", ["a.csv: expected CSV, found a Parquet file", "name it .parquet"]),
        ("a.jsonl", GOOD_CSV, ["a.jsonl: expected JSON lines", "none of its 2 lines"]),
        ("a.csv", b"", ["a.csv: expected CSV", "found an empty file"]),
        (
            "a.csv",
            b"question#answer\nq#a\n",
            ["column 'question' is not there", "columns: question#answer", "source.delimiter"],
        ),
        (
            "a.csv",
            b"Questoin,answer\nq,a\n",
            ["column 'question' is not there", "columns: Questoin, answer", "did you mean 'Quest"],
        ),
    ],
)
def test_a_source_that_is_wrong(
    alone: Command, tmp_path: Path, name: str, data: bytes | None, parts: list[str]
) -> None:
    (tmp_path / "qa.csv").write_bytes(GOOD_CSV)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    config = qa_config(tmp_path, tmp_path / name)
    done = alone("run", config, "--until", "clean-text")
    assert_refused(done, tmp_path / "run", str(tmp_path), *parts)


def test_a_configured_delimiter_that_is_wrong(alone: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(GOOD_CSV.replace(b",", b";"))
    config = qa_config(tmp_path, tmp_path / "a.csv", source={"delimiter": ","})
    for done in alone.both(config, "--until", "clean-text"):
        assert_refused(done, tmp_path / "run", "'question' is not there", "source.delimiter: ';'")


def test_a_source_and_a_run_directory_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(GOOD_CSV)
    folder = tmp_path / "closed"
    folder.mkdir()
    config = qa_config(tmp_path, tmp_path / "a.csv", run_dir=str(folder / "run"))
    folder.chmod(0o500)
    done = unprivileged("run", config, "--until", "clean-text")
    folder.chmod(0o700)
    assert_refused(done, folder / "run", f"{folder}/run: cannot be used as a run directory")
    (tmp_path / "a.csv").chmod(0)
    done = unprivileged("plan", config, "--until", "clean-text")
    assert_refused(done, folder / "run", "a.csv: no permission to read it", "give this user")


def unprivileged(*arguments: str | Path) -> Finished:
    """The command, to which permissions apply even when root runs it."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if os.geteuid() != 0:
        drop = []
    elif shutil.which("setpriv") is None:
        pytest.skip("root, and no setpriv to become less")
    done = subprocess.run(
        [*drop, sys.executable, "-m", "ray_pipeline.cli.app", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "RAY_ADDRESS": "local"},
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_a_run_directory_that_is_a_file(alone: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(GOOD_CSV)
    (tmp_path / "run").write_text("not a folder")
    done = alone("run", qa_config(tmp_path, tmp_path / "a.csv"), "--until", "clean-text")
    assert_refused(done, tmp_path / "nothing", f"{tmp_path}/run")


# --------------------------------------------------------------------------- cells


def test_cells_that_are_wrong_end_their_own_row_only(command: Command, tmp_path: Path) -> None:
    good = [{"question": f"Good question {i}?", "answer": f"answer {i}"} for i in range(5)]
    wrong: list[dict[str, Any]] = [
        {"question": None, "answer": "the question is null"},
        {"question": "No answer?"},
        {"question": "", "answer": "the question is empty"},
        {"question": " \t ", "answer": "the question is white space"},
        {"question": "x" * 30_000, "answer": "the question is over-long"},
        {"question": 42, "answer": "the question is a number"},
        {"question": ["a", "list"], "answer": "the question is a list"},
        {"question": "\ufffd\ufffd\ufffd?", "answer": "the question was not decoded"},
    ]
    lines = [json.dumps(row) for pair in zip(good, wrong, strict=False) for row in pair]
    lines += [json.dumps(row) for row in wrong[len(good) :]] + ["{torn", "17"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    csv = b"question,answer\nIs it caf\xe9?,not UTF-8\nGood in CSV?,yes\nOne cell too many?,a,b\n"
    (tmp_path / "b.csv").write_bytes(csv + b"No cell at all?\nAlso good?,yes\n")

    sources = [tmp_path / "a.jsonl", tmp_path / "b.csv"]
    config = qa_config(tmp_path, sources, unit_rows=4, budget={"max_failed_rows": 20})
    done = command("run", config, "--until", "clean-text")
    assert done.code == 0, done.text
    assert "Traceback" not in done.text

    table = pa.concat_tables(
        pq.read_table(path) for path in (tmp_path / "run/stages").rglob("part-*.parquet")
    )
    rows = table.to_pylist()
    assert len(rows) == len(lines) + 5
    kept = sorted(row["question"] for row in rows if row["status"] == "kept")
    # A number in a column of texts is the text that the file has for it.
    assert kept == sorted(["42", "Also good?", "Good in CSV?", *(row["question"] for row in good)])

    def fate(answer: str | None, question: str | None = None) -> tuple[str, str, str]:
        (row,) = [
            row
            for row in rows
            if row["status"] != "kept"
            and (row["answer"] == answer if question is None else row["question"] == question)
        ]
        return row["status"], row["stage"], row["reason"].split(": ")[0]

    assert fate("the question is null") == ("dropped", "validate", "invalid:null")
    assert fate(None, "No answer?") == ("dropped", "validate", "invalid:null")
    assert fate("the question is empty") == ("dropped", "validate", "invalid:empty")
    assert fate("the question is white space") == ("dropped", "validate", "invalid:empty")
    assert fate("the question is over-long") == ("dropped", "validate", "invalid:too_long")
    assert fate("the question was not decoded") == ("dropped", "validate", "invalid:undecodable")
    assert fate("the question is a list")[:2] == ("failed", "source")

    unread = {row["source_raw"]: row for row in rows if row["source_raw"]}
    assert all(row["stage"] == "source" and row["reason"] for row in unread.values())
    for raw in ("{torn", "17", "Is it caf", "One cell too many?,a,b", "No cell at all?"):
        assert [row["status"] for text, row in unread.items() if text.startswith(raw)] == ["failed"]
    shown = command("rows", tmp_path / "run", "validate", "--reason", "invalid:null", "--json")
    assert len(shown.out.splitlines()) == 2


# --------------------------------------------------------------------------- the configuration


WRONG = {
    "sorce.path=x": ["unknown key 'sorce'", "did you mean 'source'?"],
    "stages.validate.max_answer_char=5": [
        "unknown key 'stages.validate.max_answer_char'",
        "did you mean 'max_answer_chars'?",
    ],
    "stages.clean-txt={}": ["unknown key 'stages.clean-txt'", "did you mean 'clean-text'?"],
    "unit_rows=many": ["unit_rows: Input should be a valid integer", "'many'"],
    "budget.max_failed_rows=-1": ["budget.max_failed_rows: ", "greater than or equal to 0"],
    "llms.a={model: m, engine: opneai}": ["llms.a.engine", "did you mean 'openai'?"],
    "llms.b={model: m, top_p: 3}": ["llms.b.top_p: ", "less than or equal to 1", "found 3"],
    "llms.c={model: m, max_tokens: 96, max_model_len: 64}": [
        "llms.c: max_tokens (96) leaves no room for a prompt within max_model_len (64)"
    ],
    "llms.d={model: m, tensor_parallel_size: 4, num_gpus: 1}": [
        "llms.d: tensor_parallel_size (4) is more than num_gpus (1)"
    ],
}


def test_all_that_is_wrong_in_a_configuration_is_said_at_once(
    alone: Command, tmp_path: Path
) -> None:
    (tmp_path / "qa.csv").write_bytes(GOOD_CSV)
    config = qa_config(tmp_path, tmp_path / "qa.csv")
    done = alone("run", config, *(part for key in WRONG for part in ("--set", key)))
    assert_refused(done, tmp_path / "run", str(config), *(p for ps in WRONG.values() for p in ps))
    assert len(done.err.splitlines()) == len(WRONG)


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("stages.fill-in-blank.llm=nine", ["no model 'nine' under llms", "did you mean 'none'?"]),
        (
            "stages.fill-in-blank.prompt=fill_in_blnk",
            ["stages.fill-in-blank.prompt: no prompt", "did you mean 'fill_in_blank'?"],
        ),
        ("source.split=train", ["'split' is for Hugging Face data sets"]),
        ("name.first=x", ["name is a value, not a section"]),
    ],
)
def test_a_configuration_that_is_wrong(
    alone: Command, tmp_path: Path, assignment: str, parts: list[str]
) -> None:
    (tmp_path / "qa.csv").write_bytes(GOOD_CSV)
    config = qa_config(tmp_path, tmp_path / "qa.csv")
    no_keys = "llms.none.api_keys_env=[]"
    done = alone("plan", config, "--set", assignment, "--set", no_keys, "--until", "fill-in-blank")
    assert_refused(done, tmp_path / "run", *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["no such configuration file"]),
        ("- a\n- b\n", ["expected a mapping of keys, found list"]),
        ("name: [unclosed\n", ["not YAML"]),
        ("name: no-such-job\nrun_dir: r\n", ["names a job script", "known: "]),
        ("job: qa_distilation\nname: x\n", ["no job script", "did you mean 'qa_distillation'?"]),
    ],
)
def test_a_configuration_file_that_is_wrong(
    alone: Command, tmp_path: Path, text: str | None, parts: list[str]
) -> None:
    file = tmp_path / "conf.yaml"
    if text is not None:
        file.write_text(text)
    assert_refused(alone("run", file), tmp_path / "run", str(file), *parts)


# --------------------------------------------------------------------------- what is not there


def test_a_key_that_is_not_set(alone: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path, ["a"], "http://127.0.0.1:1/v1", api_keys_env=["NOT_SET_ANYWHERE"])
    for done in alone.both(toy.config_file):
        assert_refused(
            done, toy.run_dir, "llms.mock.api_keys_env", "NOT_SET_ANYWHERE is not set", "set it"
        )


def test_a_model_that_is_not_here(alone: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path, ["a"], "")
    for model, mend in (
        ("smollm2-135m-instrct", "nearest name: 'smollm2-135m-instruct'"),
        ("nobody/no-such-model", "not in the local cache"),
    ):
        toy.change(llms={"mock": {"engine": "transformers", "model": model}})
        for done in alone.both(toy.config_file):
            assert_refused(done, toy.run_dir, "llms.mock.model", model, mend)
    empty = {"RAY_PIPELINE_MODELS": str(tmp_path / "models")}
    toy.change(llms={"mock": {"engine": "transformers", "model": "smollm2-135m-instruct"}})
    done = alone("run", toy.config_file, **empty)
    assert_refused(done, toy.run_dir, "models fetch smollm2-135m-instruct")


def test_more_than_the_cluster_has(command: Command, tmp_path: Path) -> None:
    (tmp_path / "qa.csv").write_bytes(GOOD_CSV)
    assignments = ["--set", "stages.match-choices.num_cpus=64", "--until", "match-choices"]
    asks = {"max_tokens": 8, "engine": "openai", "model": "m", "api_keys_env": []}
    config = qa_config(tmp_path, tmp_path / "qa.csv", llms={"none": asks})
    for done in command.both(config, *assignments):
        assert_refused(
            done, tmp_path / "run", "needs 65 CPUs", "stages.match-choices 64", "the cluster has 2;"
        )
    assert json.loads((tmp_path / "run/ledger.json").read_text())["status"] == "failed"


# --------------------------------------------------------------------------- the disk


def filler(units: int) -> list[str]:
    """Texts that no compression makes small: some 100 KiB a unit of ten, with all its columns."""
    chance = random.Random(1)
    return [f"{chance.randbytes(1000).hex()} {i}" for i in range(10 * units)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_in_mid_run(command: Command, tmp_path: Path, small_disk: Path) -> None:
    toy = make_toy(tmp_path, filler(100), run_dir=str(small_disk / "run"))
    toy = Toy(toy.config_file, small_disk / "run", toy.source)
    done = command("run", toy.config_file, timeout=120)
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert f"cannot write {toy.run_dir}/" in done.err
    assert "No space left on device" in done.err
    committed = stamps(toy.run_dir)
    assert 0 < len(committed) < 100
    for part in committed:
        assert pq.read_table(part).num_rows == 10

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert committed.items() <= stamps(toy.run_dir).items()
    assert toy.stage("whisper")["kept"] == 1000
    assert not list(toy.run_dir.rglob("*.tmp"))


def stamps(run_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run_dir.rglob("part-*.parquet")}


def test_a_permission_that_is_lost_in_mid_run(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, [f"row {i} slow" for i in range(40)], unit_rows=2)
    process = command.start("run", toy.config_file)
    folder = toy.run_dir / "stages/02-whisper/rows"
    deadline = time.monotonic() + 90
    while not list(folder.glob("part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    # Not even root writes into an immutable folder.
    locked = subprocess.run(["chattr", "+i", str(folder)], capture_output=True, text=True)
    try:
        out, err = process.communicate(timeout=120)
        if locked.returncode:
            pytest.skip(f"no way to take a permission from this user: {locked.stderr}")
        assert process.returncode == 1, out + err
        assert "Traceback" not in out + err
        assert f"cannot write {folder}/part-" in err
        assert toy.ledger()["status"] == "failed"
        committed = stamps(toy.run_dir)
    finally:
        subprocess.run(["chattr", "-i", str(folder)], capture_output=True)
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert committed.items() <= stamps(toy.run_dir).items()
    assert toy.stage("whisper")["kept"] == 40


# --------------------------------------------------------------------------- the API


def toy_ask(folder: Path, texts: list[str], base_url: str, **llm: Any) -> Toy:
    common = {"engine": "openai", "model": "m", "base_url": base_url, "api_keys_env": []}
    return make_toy(
        folder,
        texts,
        pipeline="toy_ask",
        llms={"mock": {**common, "max_backoff_seconds": 0.2, **llm}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
    )


def test_faults_of_an_api_are_tried_again_or_fail_their_row(
    command: Command, tmp_path: Path
) -> None:
    marked = ["context", "400", "filter", "malformed", "empty", "500", "nousage"]
    texts = [f"text {i}" for i in range(33)] + [f"bad [[mock:{name}]]" for name in marked]
    faults = {"p429": 0.1, "p500": 0.05, "p503": 0.05, "pcut": 0.05, "pmalformed": 0.05}
    with MockServer(**faults, retry_after=0.1) as server:
        toy = toy_ask(tmp_path, texts, server.base_url, max_tries=10, reasks=0)
        toy.change(budget={"max_failed_rows": 6})
        done = command("run", toy.config_file)
        statuses = server.stats()["statuses"]
    assert done.code == 0, done.text
    assert all(statuses.get(status) for status in ("429", "500", "503", "cut", "malformed"))
    ask = toy.stage("ask")
    assert (ask["kept"], ask["failed"], ask["dropped"]) == (34, 6, 0)
    assert ask["llm"]["retries"] > 0
    rows = toy.parts("02-ask").to_pylist()
    reasons = {row["text"]: row["reason"] for row in rows if row["status"] == "failed"}
    codes = {text: reason.split(": ")[0] for text, reason in reasons.items()}
    retried = [f"bad [[mock:{name}]]" for name in ("malformed", "empty", "500")]
    assert codes == {
        "bad [[mock:context]]": "llm:context_length",
        "bad [[mock:400]]": "llm:bad_request",
        "bad [[mock:filter]]": "llm:content_filter",
        # Each of these was tried ten times, and the last try may have met another fault.
        **{text: codes[text] for text in retried},
    }
    assert {codes[text] for text in retried} <= {
        *("llm:malformed", "llm:server_error", "llm:rate_limited", "llm:connection"),
    }
    assert all("after 10 tries" in reasons[text] for text in retried)
    assert toy.stage("whisper")["rows_in"] == 34


def test_too_many_time_outs_stop_the_run(command: Command, tmp_path: Path) -> None:
    with MockServer(latency=30) as server:
        toy = toy_ask(tmp_path, ["a", "b", "c"], server.base_url, timeout_seconds=0.3, max_tries=2)
        toy.change(budget={"max_failed_rows": 1})
        done = command("run", toy.config_file)
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert "3 rows failed, 1 are allowed" in done.err
    assert toy.ledger()["status"] == "failed"
    assert toy.stage("ask")["reasons"] == {"llm:timeout": 3}


def test_a_server_that_is_not_there_stops_the_run(command: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path, ["a", "b"], "http://127.0.0.1:9/v1", max_tries=2)
    done = command("run", toy.config_file)
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert "http://127.0.0.1:9 does not answer" in done.err


def test_a_refused_key_stops_the_run_and_is_not_shown(tmp_path: Path) -> None:
    alone = Command("local", tmp_path)  # its workers have the command's own environment
    with MockServer(keys="the-good-key") as server:
        toy = toy_ask(tmp_path, ["a", "b"], server.base_url, api_keys_env=["MOCK_KEY"])
        done = alone("run", toy.config_file, MOCK_KEY=KEY)
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert "MOCK_KEY" in done.err
    assert "401" in done.err
    assert toy.ledger()["status"] == "failed"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert KEY not in done.text
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_key_that_only_the_driver_has(own_process: Command, tmp_path: Path) -> None:
    with MockServer() as server:
        toy = toy_ask(tmp_path, ["a", "b"], server.base_url, api_keys_env=["DRIVERS_KEY"])
        done = own_process("run", toy.config_file, DRIVERS_KEY=KEY, timeout=90)
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert "DRIVERS_KEY is not set" in done.err
    assert toy.ledger()["status"] == "failed"
    assert KEY not in done.text


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"source": {"path": "a\0b"}}, "has a control character"),
        ({"run_dir": "/tmp/a\0b"}, "has a control character"),
        ({"run_dir": "/tmp/a\nb"}, "has a control character"),
        ({"run_dir": "/tmp/" + "n" * 300}, "too long"),
    ],
)
def test_a_path_that_no_file_can_have_is_one_message(
    alone: Command, tmp_path: Path, keys: dict[str, Any], part: str
) -> None:
    toy = make_toy(tmp_path, ["a"], **keys)
    for done in alone.both(toy.config_file):
        assert_refused(done, tmp_path / "run", part)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"stages": {"ask": {"llm": "mock", "prompt": "n" * 300}}}, "no prompt 'nnn"),
        ({"stages": {"ask": {"llm": "mock", "prompt": "n" * 300 + ".yaml"}}}, "no prompt 'nnn"),
        ({"llms": {"mock": {"engine": "transformers", "model": "n" * 300}}}, "nnn"),
    ],
)
def test_a_name_that_no_file_can_have_is_one_message(
    alone: Command, tmp_path: Path, changed: dict[str, Any], part: str
) -> None:
    llm = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:1", "api_keys_env": []}
    keys = {"llms": {"mock": llm}, "stages": {"ask": {"llm": "mock", "prompt": "ask"}}} | changed
    toy = make_toy(tmp_path, ["a"], pipeline="toy_ask", **keys)
    assert_refused(alone("plan", toy.config_file), tmp_path / "run", part)
