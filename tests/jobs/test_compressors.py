"""The `prompt_compression` job trains a compressor on its own rows and measures what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from support.command import REPOSITORY, Command
from support.tiny_models import tiny_labeller, tiny_model, word_tokenizer
from tokenizers.processors import TemplateProcessing

from ray_pipeline.train.student import save


def models(folder: Path) -> tuple[str, str]:
    """A model that labels words and one that judges, which know hardly any word."""
    labels, judge = word_tokenizer(), word_tokenizer(chat=True)
    labels.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|user|> $A <eos>", special_tokens=[("<|user|>", 0), ("<eos>", 4)]
    )
    save(tiny_labeller(len(labels)).float(), labels, folder / "labeller")
    model = tiny_model("llama", len(judge)).float()
    model.config.max_position_embeddings = 512
    save(model, judge, folder / "judge")
    return str(folder / "labeller"), str(folder / "judge")


def test_a_compressor_is_trained_measured_and_reported(command: Command, tmp_path: Path) -> None:
    labeller, judge = models(tmp_path)
    config: dict[str, Any] = {
        "name": "prompt-compression",
        "run_dir": str(tmp_path / "run"),
        "seed": 7,
        "source": {"path": str(REPOSITORY / "samples" / "prompts.jsonl"), "limit": 60},
        "stages": {
            "choose-compression": {"prefer": ["stop_words", "articles", "filler"]},
            "split": {"validation": 0.2, "test": 0.3},
            "score-words": {"model": judge},
            "tokenise-compressions": {"model": labeller, "max_prompt_tokens": 60},
            "train-compressor": {"loop": {"epochs": 1}, "batches": {"step_rows": 8}},
            "evaluate-compressions": {
                "model": judge, "rows": 6, "rates": [0.5], "draws": 2, "agreement_rows": 2,
                "agreement_tokens": 4, "answer_words": 5,
            },
        },
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = command("run", path, timeout=400)
    assert done.code == 0, done.text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    training, evaluation = metrics["train-compressor"], metrics["evaluate-compressions"]
    assert training["evaluations"][0]["step"] == 0 and training["rows"] > 5
    names = {one["name"] for one in evaluation["systems"]}
    assert {"generated", "trained", "surprising words", "empty prompt"} <= names
    assert all(one["violations"] == 0 for one in evaluation["systems"] if one["name"] == "trained")
    assert (tmp_path / "run" / "models" / "compressor" / "README.md").is_file()
    report = (tmp_path / "run" / "report.html").read_text()
    assert "What shorter prompts cost" in report and "Quality over ratio" in report
