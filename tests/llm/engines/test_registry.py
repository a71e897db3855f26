"""A new engine is one file: nothing else knows its name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.command import Command
from support.echo_engine import EchoEngine
from support.toy_run import make_toy

from ray_pipeline.llm import engines
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.engines.base import LocalEngine, RemoteEngine
from ray_pipeline.llm.engines.openai import OpenAIEngine

TEXTS = ["one", "two", "three"]
#: What each of the two engines needs.
ECHOES = {
    "EchoEngine": {"base_url": "echo://x", "api_keys_env": [], "model": "echo"},
    "LocalEchoEngine": {"model": "smollm2-135m-instruct", "num_cpus": 0},
}


@pytest.mark.parametrize("name", ECHOES)
def test_an_engine_of_another_package_answers_a_run(
    command: Command, tmp_path: Path, name: str
) -> None:
    prices = {"prompt": 1000, "completion": 1000}
    llm = {"engine": f"support.echo_engine:{name}", "usd_per_million": prices, **ECHOES[name]}
    toy = make_toy(
        tmp_path,
        TEXTS,
        pipeline="toy_ask",
        llms={"echo": llm},
        stages={"ask": {"llm": "echo", "prompt": "ask"}},
        budget={"max_cost_usd": 5, "max_tokens": 10_000},
    )
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    answers = toy.parts("02-ask")["answer"].to_pylist()
    assert sorted(answers) == sorted(f"SAY SOMETHING ABOUT {text.upper()}" for text in TEXTS)
    usage = toy.stage("ask")["llm"]
    assert (usage["requests"], usage["completion_tokens"]) == (len(TEXTS), 5 * len(TEXTS))
    assert usage["cost_usd"] == (0.01 * len(TEXTS) if name == "EchoEngine" else 0)


def test_its_own_check_comes_before_anything_runs(command: Command, tmp_path: Path) -> None:
    llm = {"engine": "support.echo_engine:EchoEngine", "model": "echo", "api_keys_env": []}
    toy = make_toy(
        tmp_path,
        TEXTS,
        pipeline="toy_ask",
        llms={"mine": {**llm, "base_url": "http://x"}},
        stages={"ask": {"llm": "mine", "prompt": "ask"}},
    )
    done = command("run", toy.config_file)
    assert done.code == 2, done.text
    assert "llms.mine.base_url: 'http://x' is not a URL like echo://x" in done.err
    assert not (toy.run_dir / "stages").exists()


def test_a_line_of_the_registry_gives_an_engine_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=r"no engine 'echo' .known: .*openai"):
        LlmConfig(model="m", engine="echo")
    monkeypatch.setitem(engines.ENGINES, "echo", "support.echo_engine:EchoEngine")
    config = LlmConfig(model="m", engine="echo")
    assert (config.kind, config.engine_type) == ("echo", EchoEngine)
    with pytest.raises(ValidationError, match=r"no engine 'ecko'; did you mean 'echo'?"):
        LlmConfig(model="m", engine="ecko")


@pytest.mark.parametrize("engine", ["support.no_such:Engine", "support.echo_engine:NoSuch"])
def test_a_class_that_is_not_there_is_named(engine: str) -> None:
    with pytest.raises(ValidationError, match=f"no engine '{engine}': .*[nN]o_?[sS]uch"):
        LlmConfig(model="m", engine=engine)


def test_every_name_of_the_registry_is_an_engine() -> None:
    for kind in engines.ENGINES:
        assert issubclass(engines.engine_type(kind), LocalEngine | RemoteEngine)
    assert LlmConfig(model="m", engine="openai").engine_type is OpenAIEngine


def test_auto_is_vllm_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = find_spec("vllm") is not None
    assert LlmConfig(model="m").kind == ("vllm" if installed else "transformers")
    monkeypatch.setattr(engines, "find_spec", lambda name: name == "vllm" or None)
    assert LlmConfig(model="m").kind == "vllm"
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert LlmConfig(model="m").kind == "transformers"


def test_no_other_file_names_a_kind_of_engine() -> None:
    """A comparison with a kind's name elsewhere would make a new engine more than one file."""
    package = Path(engines.__file__).parents[2]
    users = [
        path
        for folder in ("llm", "engine")
        for path in (package / folder).rglob("*.py")
        if path.parent.name != "engines"
    ]
    assert len(users) > 20
    for path in users:
        text = path.read_text()
        assert not [kind for kind in engines.ENGINES if f'"{kind}"' in text], path
