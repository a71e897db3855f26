"""A tiny sentence-embedding model without dropout, and pairs to fine-tune it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.tiny_models import word_tokenizer

from ray_pipeline.core.storage import Storage
from ray_pipeline.train.retrieval.job import Encode, RetrieverJob, TuningConfig
from ray_pipeline.train.retrieval.pairs import TrainingPairs


def tiny_retriever(folder: Path, dropout: float = 0.0) -> str:
    """Save a model of two layers and return its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    base = folder / "base"
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(base)
    word_tokenizer().save_pretrained(base)
    model = SentenceTransformer(modules=[Transformer(str(base)), Pooling(16)], device="cpu")
    model.save(str(folder / "model"))
    return str(folder / "model")


def pairs() -> TrainingPairs:
    """Ten pairs of short texts; query 0 asks for contexts 0 and 1, and for 2 partly."""
    words = list("abcdef")
    contexts = [f"{a} {b} of the capital" for a in words[:3] for b in words[3:]]
    queries = [f"what is {a} {b}" for a in words[:3] for b in words[3:]]
    chosen = [(n, n) for n in range(9)] + [(0, 1)]
    grades = {n: {n: 1.0} for n in range(9)}
    grades[0] |= {1: 1.0, 2: 0.5}
    hard = {n: [(n + 4) % 9] for n in range(9)}
    return TrainingPairs(queries, contexts, np.array(chosen, np.int64), grades, hard)


@dataclass(frozen=True)
class Similar:
    """Mean cosine of queries and their contexts."""

    data: TrainingPairs

    def __call__(self, encode: Encode) -> dict[str, float]:
        one = encode([self.data.queries[q] for q, _ in self.data.pairs])
        two = encode([self.data.contexts[c] for _, c in self.data.pairs])
        return {"cosine": float((one * two).sum(axis=1).mean())}


def job(
    base: str,
    folder: Path,
    validate: Callable[[Any], dict[str, float]] | None = None,
    **config: Any,
) -> RetrieverJob:
    """A fine-tuning of the tiny model on these pairs."""
    data = pairs()
    defaults = {"epochs": 2, "batch_pairs": 4, "learning_rate": 1e-2, "patience": None}
    return RetrieverJob(
        data=data,
        base=base,
        storage=Storage(str(folder)),
        folder="work",
        name="retriever-1",
        card="# retriever-1\n\n{result}\n",
        config=TuningConfig.model_validate(defaults | config),
        validate=validate or Similar(data),
        seed=1,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The trained model's weights."""
    from safetensors.torch import load_file

    return load_file(folder / "models/retriever-1/model.safetensors")
