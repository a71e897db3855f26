"""The optimizers that a training can use, by name.

A new one needs a line in `OPTIMIZERS` and its name in `OptimizerName`. Its state must consist of
tensors in the shape of their parameter, and of scalars: `replica.Sharded` gathers and divides them
for checkpoints that any number of ranks can load. So Adafactor, whose moments are rows and columns,
is not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

OptimizerName = Literal["adamw", "sgd"]


def make_optimizer(
    name: OptimizerName,
    parameters: Sequence[torch.nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """An optimizer by its name.

    Args:
        name: a key of `OPTIMIZERS`.
        parameters: what is trained, all on one device.
        learning_rate: of the first step.
        weight_decay: of matrices; biases and norms, which have one dimension, have none.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    return OPTIMIZERS[name](used, learning_rate, parameters[0].is_cuda)


def _adamw(
    groups: list[dict[str, Any]], learning_rate: float, on_gpu: bool
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=learning_rate, fused=on_gpu or None)


def _sgd(groups: list[dict[str, Any]], learning_rate: float, on_gpu: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)


#: Makes an optimizer from parameter groups, the learning rate, and whether they are on a GPU.
OPTIMIZERS: Mapping[
    OptimizerName, Callable[[list[dict[str, Any]], float, bool], torch.optim.Optimizer]
] = {"adamw": _adamw, "sgd": _sgd}
