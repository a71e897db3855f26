"""Tiny models and rows that the training tests share. No network, no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

VOCABULARY = 67
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = [*"abcdef", "what", "is", "the", "of", "capital", "answer", "question", *".:?\n"]


def word_tokenizer(chat: bool = False) -> PreTrainedTokenizerFast:
    """Words as tokens; the padding token is the end of text, as so often."""
    special = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<eos>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Punctuation()]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=special[:4],
    )
    if chat:
        fast.chat_template = CHAT
    return fast


def tiny_model(
    kind: str = "llama", vocabulary: int = VOCABULARY, seed: int = 0, **more: Any
) -> Any:
    """A randomly initialised model of two layers, hidden size 16, in float64, without dropout."""
    torch.manual_seed(seed)
    shape = {"bos_token_id": 4, "eos_token_id": 4, "pad_token_id": 4, "vocab_size": vocabulary}
    if kind == "gpt2":
        config = GPT2Config(
            n_layer=more.pop("layers", 2), n_head=2, n_embd=16, n_positions=64, resid_pdrop=0,
            embd_pdrop=0, attn_pdrop=0, initializer_range=0.3, **shape, **more,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            num_hidden_layers=more.pop("layers", 2), num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, initializer_range=0.3,
            **{"hidden_size": 16, "intermediate_size": 32, **shape, **more},
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        for module in list(
            model.modules()
        ):  # theirs computes in float32, whatever the model's type
            for name, child in module.named_children():
                if isinstance(child, LlamaRMSNorm):
                    setattr(
                        module,
                        name,
                        torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon),
                    )
    return model.double()


def token_table(
    rows: int, seed: int = 0, longest: int = 20, vocabulary: int = VOCABULARY
) -> pa.Table:
    """Rows of random tokens with prompts and answers of uneven lengths."""
    random = np.random.default_rng(seed)
    ids, masks = [], []
    for _ in range(rows):
        prompt, answer = random.integers(1, longest // 2), random.integers(1, longest // 2)
        ids.append(random.integers(0, vocabulary, prompt + answer).tolist())
        masks.append([False] * int(prompt) + [True] * int(answer))
    return pa.table(
        {
            "row_id": [f"row-{number}" for number in range(rows)],
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "answer_mask": pa.array(masks, pa.list_(pa.bool_())),
        }
    )


def qa_table(questions: list[str | None], answers: list[str | None]) -> pa.Table:
    ids = [f"row-{number}" for number in range(len(questions))]
    return pa.table(
        {
            "row_id": ids,
            "question": pa.array(questions, pa.string()),
            "answer": pa.array(answers, pa.string()),
        }
    )


def fetched(name: str) -> Path | None:
    """Folder of a packaged model, where it was fetched."""
    from ray_pipeline.models import packaged

    return packaged.models_dir() / name if packaged.is_fetched(name) else None
