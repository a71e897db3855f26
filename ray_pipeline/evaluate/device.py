"""Where models are evaluated: on a GPU or not, as a configuration's ``gpu`` says."""

from __future__ import annotations

from ray_pipeline.errors import UserError


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
