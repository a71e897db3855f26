"""The precision that forward passes compute in. Weights and their updates stay in float32."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The forward pass's precision. CPUs stay in float32 unless told: without instructions for
    bfloat16 it is slower there, with them twice as fast (benchmarks/README.md).
    """
    low = precision == "bfloat16"
    if precision == "auto":
        low = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=low)
