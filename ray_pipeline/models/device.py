"""Where models are evaluated: on a GPU or not, as a configuration's ``gpu`` says."""

from __future__ import annotations

from typing import Literal

import torch

from ray_pipeline.core.errors import UserError


def check_gpu(gpu: bool | None) -> None:
    """See that the GPU that is asked for is there.

    Raises:
        UserError: it is not.
    """
    import torch

    if gpu and not torch.cuda.is_available():
        raise UserError(
            "gpu is true, and this machine has none that torch can use: set it to null, or start "
            "the run where there is one"
        )


def device(gpu: bool | None) -> str:
    """The device as torch names it; None: a GPU where this machine has one."""
    import torch

    return "cuda" if (torch.cuda.is_available() if gpu is None else gpu) else "cpu"


# The precision that forward passes compute in. Weights and their updates stay in float32.

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The forward pass's precision. CPUs stay in float32 unless told: without instructions for
    bfloat16 it is slower there, with them twice as fast (benchmarks/README.md).
    """
    low = precision == "bfloat16"
    if precision == "auto":
        low = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=low)
