"""Toy jobs: a source of a few texts, stages that shout and whisper, a configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from support.command import TESTS


@dataclass
class Toy:
    """A toy job in a folder: its configuration file, its source and its run directory."""

    config_file: Path
    run_dir: Path
    source: Path

    @property
    def job(self) -> str:
        """The job script that the configuration names."""
        job: str = yaml.safe_load(self.config_file.read_text())["job"]
        return job

    def ledger(self) -> dict[str, Any]:
        """The ledger, parsed."""
        return json.loads((self.run_dir / "ledger.json").read_text())

    def stage(self, name: str) -> dict[str, Any]:
        """One stage's entry of the ledger."""
        return next(s for s in self.ledger()["stages"] if s["name"] == name)

    def parts(self, folder: str) -> pa.Table:
        """All rows of a segment's parts, in the order of their ids."""
        import pyarrow.parquet as pq

        files = sorted((self.run_dir / "stages" / folder / "rows").glob("part-*.parquet"))
        return pa.concat_tables(pq.read_table(f) for f in files).sort_by("row_id")

    def change(self, **keys: Any) -> None:
        """Merge top-level keys into the configuration file."""
        config = yaml.safe_load(self.config_file.read_text())
        for key, value in keys.items():
            old = config.get(key)
            config[key] = {**old, **value} if isinstance(old, dict) else value
        self.config_file.write_text(yaml.safe_dump(config))


def make_toy(folder: Path, texts: Sequence[str], pipeline: str = "toy_maps", **keys: Any) -> Toy:
    """Write a toy job's source and configuration.

    Args:
        folder: where to write.
        texts: the rows.
        pipeline: a script in ``tests/support/jobs``.
        keys: further keys of the configuration.
    """
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prompts = folder / "prompts"
    prompts.mkdir(exist_ok=True)
    (prompts / "ask.yaml").write_text('user: "Say something about {{ text }}"\n')
    config: dict[str, Any] = {
        "name": "toy",
        "job": str(TESTS / "support" / "jobs" / f"{pipeline}.py"),
        "run_dir": str(folder / "run"),
        "unit_rows": 10,
        "source": {"path": str(source)},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config | keys))
    return Toy(path, folder / "run", source)
