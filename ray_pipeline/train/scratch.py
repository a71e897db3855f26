"""A model from a configuration, with random weights: what is trained from scratch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from ray_pipeline.core.config import Section


class ScratchConfig(Section):
    """A GPT-2 architecture (Radford et al. 2019). Unknown keys are errors.

    Defaults follow the original experiment's 500M model: 498,545,920 parameters with GPT-2's 50,257
    tokens (22 layers of 19,677,440, embeddings of 64,328,960 and 1,310,720, and the last norm's
    2,560).
    """

    architecture: Literal["gpt2"] = Field("gpt2", description="architecture of the model")
    n_layer: int = Field(22, ge=1, description="number of layers")
    n_embd: int = Field(1280, ge=1, description="width of the hidden states")
    n_head: int = Field(20, ge=1, description="number of attention heads, a divisor of the width")
    n_positions: int = Field(1024, ge=2, description="largest number of tokens of a text")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="dropout of embeddings, attention and residuals"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> ScratchConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) is no multiple of n_head ({self.n_head})")
        return self

    def parameters(self, vocabulary: int) -> int:
        """Parameters of the model; the output projection is the token embedding."""
        width = self.n_embd
        layer = 12 * width**2 + 13 * width
        return self.n_layer * layer + (vocabulary + self.n_positions + 2) * width

    def build(self, tokenizer: Any, vocabulary: int, seed: int) -> Any:
        """A model in float32 with random weights.

        Args:
            tokenizer: gives the tokens that begin and end texts.
            vocabulary: number of tokens.
            seed: of the weights.
        """
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=vocabulary,
            n_layer=self.n_layer,
            n_embd=self.n_embd,
            n_head=self.n_head,
            n_positions=self.n_positions,
            resid_pdrop=self.dropout,
            embd_pdrop=self.dropout,
            attn_pdrop=self.dropout,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return GPT2LMHeadModel(config).float()
