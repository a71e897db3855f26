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


def tiny_seq2seq(kind: str = "t5", vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """A randomly initialised encoder-decoder of two layers, in float64, without dropout."""
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(seed)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "vocab_size": vocabulary}
    if kind == "t5":
        config = T5Config(
            d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0,
            decoder_start_token_id=0, **ids,
        )  # fmt: skip
        return T5ForConditionalGeneration(config).double()
    config = BartConfig(
        d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0,
        attention_dropout=0, activation_dropout=0, max_position_embeddings=64, bos_token_id=2,
        decoder_start_token_id=1, forced_eos_token_id=None, init_std=0.3, **ids,
    )  # fmt: skip
    return BartForConditionalGeneration(config).double()


def tiny_labeller(vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """A randomly initialised BERT that gives each token one of two labels, in float64."""
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, hidden_dropout_prob=0,
        attention_probs_dropout_prob=0, num_labels=2, initializer_range=0.3,
    )  # fmt: skip
    return BertForTokenClassification(config).double()


def label_table(rows: int, seed: int = 0) -> pa.Table:
    """Rows of random tokens, the first and last apart, each with a label after them: 0 or 1."""
    random = np.random.default_rng(seed)
    ids, masks = [], []
    for _ in range(rows):
        words = int(random.integers(1, 9))
        tokens = random.integers(2, VOCABULARY, words + 2).tolist()
        ids.append(tokens + random.integers(0, 2, words).tolist())
        masks.append([False] * (words + 2) + [True] * words)
    return pa.table(
        {
            "row_id": [f"row-{number}" for number in range(rows)],
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "answer_mask": pa.array(masks, pa.list_(pa.bool_())),
        }
    )


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
