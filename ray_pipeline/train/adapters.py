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
        """Check that this machine can train such an adapter.

        Raises:
            UserError: it lacks bitsandbytes.
        """
        if self.four_bit and find_spec("bitsandbytes") is None:
            raise UserError(
                "adapter.four_bit needs bitsandbytes: pip install 'ray-pipeline[qlora]'"
            )


def quantisation(config: AdapterConfig | None) -> Any:
    """The ``quantization_config`` of `from_pretrained`; None where weights are not quantised."""
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
    """A model with an adapter; all its other weights are frozen.

    Raises:
        UserError: the model has no modules with the names in ``targets``.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.four_bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        _forbid_packing(model)
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


def _forbid_packing(model: Any) -> None:
    """Keep bitsandbytes from packing weights on a CPU.

    After the first forward pass in evaluation mode bitsandbytes 0.50 computes with packed weights,
    in training as well, by an operator without a derivative: all gradients are then wrong, and the
    only sign is a warning of torch.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
