"""The device that models run on, and the precision of their forward passes."""

from __future__ import annotations

from typing import Literal

import torch

from ray_pipeline.core.errors import UserError


def check_gpu(gpu: bool | None) -> None:
    """Check that there is a GPU, if the configuration asks for one.

    Raises:
        UserError: there is none.
    """
    if gpu and not torch.cuda.is_available():
        raise UserError(
            "gpu is true, and this machine has none that torch can use: set it to null, or start "
            "the run where there is one"
        )


def device(gpu: bool | None) -> str:
    """The device as torch names it, by a configuration's ``gpu``.

    Args:
        gpu: whether to use a GPU; None: if this machine has one.
    """
    return "cuda" if (torch.cuda.is_available() if gpu is None else gpu) else "cpu"


#: The precision of forward passes. Weights and their updates stay in float32.
Precision = Literal["auto", "float32", "bfloat16", "bfloat16_if_fast"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which forward passes compute in a precision.

    ``auto`` is bfloat16 on GPUs that support it, and float32 on CPUs. ``bfloat16_if_fast`` is
    bfloat16 on CPUs with AVX-512 BF16 or AMX too, which are twice as fast in it; others are many
    times slower in it than in float32 (benchmarks/README.md).
    """
    low = precision == "bfloat16"
    if precision in ("auto", "bfloat16_if_fast"):
        low = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16_if_fast" and device.type == "cpu":
        can = torch.cpu.get_capabilities()
        low = bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=low)
