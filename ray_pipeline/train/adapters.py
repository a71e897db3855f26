"""LoRA and QLoRA by PEFT: small trained matrices beside frozen weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from pydantic import Field

from ray_pipeline.core.config import Section
from ray_pipeline.core.errors import UserError, first_line


class AdapterConfig(Section):
    """LoRA (Hu et al. 2021); with ``four_bit`` QLoRA (Dettmers et al. 2023)."""

    rank: int = Field(16, ge=1, description="rank of the update")
    alpha: int = Field(32, ge=1, description="scale of the update, as alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout of the adapter's input")
    targets: str | list[str] = Field(
        "all-linear",
        description="names of the modules that get an adapter; all-linear: all except the output "
        "projection",
    )
    four_bit: bool = Field(
        False,
        description="freeze the base weights in 4 bits (NF4, QLoRA): needs bitsandbytes; slow on "
        "a CPU",
    )

    def check(self) -> None:
        """Raise UserError where this machine cannot train such an adapter."""
        if self.four_bit and find_spec("bitsandbytes") is None:
            raise UserError(
                "adapter.four_bit needs bitsandbytes: pip install 'ray-pipeline[qlora]'"
            )


def quantisation(config: AdapterConfig | None) -> Any:
    """What `from_pretrained` takes as ``quantization_config``; None: full weights."""
    if config is None or not config.four_bit:
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def with_adapter(model: Any, config: AdapterConfig, seed: int) -> Any:
    """The model with an adapter, the only part of it that is trained.

    Raises:
        UserError: the model has no modules of the names in ``targets``.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.four_bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        _never_packed(model)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, lora)
        except ValueError as error:
            raise UserError(f"adapter.targets: {first_line(error)}") from error


def _never_packed(model: Any) -> None:
    """Keep bitsandbytes from packing weights on a CPU.

    From the first forward pass in evaluation mode on it computes with packed weights, in training
    too, by an operator without a derivative (0.50): all gradients are wrong, and only a warning of
    torch tells.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
