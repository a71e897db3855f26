from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.answers import answers
from ray_pipeline.models.decoding import Decoding
from ray_pipeline.models.text import TextConfig
from ray_pipeline.train.store import put_model


def test_a_model_that_writes_no_text_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is a BertModel, which writes no text: name a causal"):
        list(answers(str(tmp_path), ["a"], Decoding(), "transformers"))


def test_a_model_with_broken_weights_is_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    put_model(storage, "student", tiny_model().to(torch.float32), word_tokenizer(), TextConfig())
    for path in (tmp_path / "run" / "models" / "student").iterdir():
        whole = path.suffix != ".safetensors"
        (tmp_path / path.name).write_bytes(path.read_bytes()[: None if whole else 99])
    with pytest.raises(UserError, match=f"weights in {tmp_path} cannot be read"):
        list(answers(str(tmp_path), ["a"], Decoding(), "transformers"))
