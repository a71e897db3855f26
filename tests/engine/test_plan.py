"""`plan`: what would run, what it would ask and cost, and what it lacks; and it does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import Command, InProcess
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

TEXTS = [f"row {i}" + " drop" * (i % 10 == 3) for i in range(60)]
ASKED = 60 - 6  # one row in ten is dropped before the question
PRICES = {"prompt": 1000, "completion": 10_000}


def toy_ask(folder: Path, texts: list[str] = TEXTS, base_url: str = "http://x/v1") -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": base_url, "api_keys_env": []}
    return make_toy(
        folder,
        texts,
        pipeline="toy_ask",
        llms={"mock": {**llm, "max_tokens": 20, "usd_per_million": PRICES}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
    )


def table(text: str) -> dict[str, list[str]]:
    """The lines of the plan by stage, cut into cells."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 2 and row[1] in ("run", "reused")}


@pytest.fixture
def alone(tmp_path: Path) -> Command:
    """The command in this process: a plan needs no cluster."""
    return InProcess(tmp_path)


def test_rows_requests_tokens_and_cost(alone: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path)
    done = alone("plan", toy.config_file)
    assert done.code == 0, done.text
    stages = table(done.out)
    assert list(stages) == ["source", "shout", "ask", "whisper"]
    assert stages["source"] == ["run", "60"]
    assert stages["shout"] == ["run", "60"]
    assert stages["whisper"] == ["run", str(ASKED)]
    action, rows, requests, prompt_tokens, answer_tokens, cost = stages["ask"]
    assert (action, rows, requests) == ("run", str(ASKED), str(ASKED))
    # 24 characters or so a question, and what servers add around a message and a prompt at most.
    assert ASKED * (5 + 24) <= int(prompt_tokens.replace(",", "")) <= ASKED * (8 + 24)
    assert answer_tokens == f"{ASKED * 20:,}"
    dollars = (int(prompt_tokens.replace(",", "")) * 1000 + ASKED * 20 * 10_000) / 1e6
    assert float(cost.strip("$")) == pytest.approx(dollars, abs=0.006)
    assert f"about {cost}," in done.out


def test_it_changes_nothing_and_says_what_is_reused(command: Command, tmp_path: Path) -> None:
    with MockServer() as server:
        toy = toy_ask(tmp_path, base_url=server.base_url)
        assert command("plan", toy.config_file).code == 0
        assert not toy.run_dir.exists()
        assert server.stats()["arrivals"] == 0

        assert command("run", toy.config_file).code == 0
        assert server.stats()["arrivals"] == ASKED
        before = state(toy.run_dir)
        done = command("plan", toy.config_file)
        assert done.code == 0, done.text
        assert [row[0] for row in table(done.out).values()] == ["reused"] * 4
        assert "about $0.00," in done.out

        (tmp_path / "prompts/ask.yaml").write_text('user: "Ask about {{ text }}"\n')
        done = command("plan", toy.config_file)
        assert {name: row[:2] for name, row in table(done.out).items()} == {
            "source": ["reused", "60"],
            "shout": ["reused", "60"],
            "ask": ["run", str(ASKED)],
            "whisper": ["run", str(ASKED)],
        }
        assert table(done.out)["ask"][2] == str(ASKED)
        assert state(toy.run_dir) == before
        assert server.stats()["arrivals"] == ASKED


def state(folder: Path) -> dict[str, tuple[int, int]]:
    paths = sorted(folder.rglob("*"))
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths}


def test_rows_after_a_stage_that_was_run_are_counted_not_guessed(
    command: Command, tmp_path: Path
) -> None:
    texts = TEXTS[:-2] + ["one [[mock:400]]", "two [[mock:400]]"]
    with MockServer() as server:
        toy = toy_ask(tmp_path, texts, server.base_url)
        assert command("run", toy.config_file, "--until", "ask").code == 0
        done = command("plan", toy.config_file)
    assert table(done.out)["ask"][:2] == ["reused", str(ASKED)]
    # Two rows failed in the stage before.
    assert table(done.out)["whisper"] == ["run", str(ASKED - 2)]


def test_a_large_source_is_estimated_from_a_sample(alone: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path, TEXTS * 100)
    done = alone("plan", toy.config_file)
    rows = table(done.out)
    assert rows["shout"] == ["run", "6,000"]
    assert int(rows["ask"][2].replace(",", "")) == pytest.approx(ASKED * 100, rel=0.02)


def test_until(alone: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path)
    done = alone("plan", toy.config_file, "--until", "shout")
    assert list(table(done.out)) == ["source", "shout"]
    assert "about $0.00," in done.out


def test_no_model_is_loaded_for_an_api_job(tmp_path: Path) -> None:
    toy = toy_ask(tmp_path)
    script = (
        "import sys\n"
        "from ray_pipeline.cli.app import app\n"
        f"app(['plan', {str(toy.config_file)!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'vllm', 'sentence_transformers'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": "local"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout


def test_more_than_this_machine_has(alone: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path)
    cpus = os.cpu_count() or 1
    llm = {"engine": "transformers", "model": "smollm2-135m-instruct", "num_cpus": cpus + 1}
    toy.change(llms={"mock": {**llm, "num_gpus": 0}})
    done = alone("plan", toy.config_file)
    assert done.code == 2, done.text
    assert f"needs {cpus + 2} CPUs" in done.err
    assert f"llms.mock {cpus + 1}" in done.err
    assert f"the cluster has {cpus};" in done.err
    assert "Traceback" not in done.text
    toy.change(autoscaling=True)
    assert alone("plan", toy.config_file).code == 0


def test_more_than_the_cluster_has(command: Command, tmp_path: Path) -> None:
    toy = toy_ask(tmp_path)
    llm = {"engine": "transformers", "model": "smollm2-135m-instruct", "actors": 40, "num_gpus": 2}
    toy.change(llms={"mock": llm})
    done = command("plan", toy.config_file)
    assert done.code == 2, done.text
    assert "needs 80 GPUs at the same time (llms.mock 80), the cluster has " in done.err


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    alone = Command("local", tmp_path)
    toy = toy_ask(tmp_path)
    done = alone("plan", toy.config_file, "--set", "address=127.0.0.1:1", timeout=60)
    assert done.code == 2, done.text
    assert "no Ray cluster at 127.0.0.1:1" in done.err
    assert "Traceback" not in done.text
