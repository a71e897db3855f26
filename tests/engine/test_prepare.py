"""Preparing refuses what would stop a run later, before anything is asked."""

from __future__ import annotations

from pathlib import Path

from support.command import Command
from support.mock_openai import MockServer
from support.toy_run import make_toy


def test_a_prompt_with_a_variable_that_the_stage_does_not_pass(tmp_path: Path) -> None:
    with MockServer() as server:
        llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
        toy = make_toy(
            tmp_path,
            ["one"],
            pipeline="toy_ask",
            llms={"mock": llm},
            stages={"ask": {"llm": "mock", "prompt": "ask"}},
        )
        prompt = tmp_path / "prompts" / "ask.yaml"
        prompt.write_text("system: Be brief.\nuser: Say something about {{ txt }}\n")
        for done in Command("local", tmp_path).both(toy.config_file):
            assert done.code == 2, done.text
            message = f"prompt {prompt}: stages.ask passes no 'txt' to it; did you mean 'text'?"
            assert message in done.err
            assert "Traceback" not in done.text
        assert server.stats()["arrivals"] == 0
        assert not (toy.run_dir / "stages").exists()
