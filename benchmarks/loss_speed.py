"""Speed of the loss on a CPU: block by block in a processor's cache, against dense logits.

    python benchmarks/loss_speed.py [--vocabulary 50257] [--positions 1024] [--rounds 5]

Each side projects the hidden states of some answer positions, computes their cross-entropy, and
the gradients of states and weight, in one thread. The dense side is what a model's own forward pass
does: all logits, in float32, and torch's cross-entropy. In each round both sides run, one after the
other; prints microseconds a position, medians, and their ratio. Losses must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ray_pipeline.train.losses import Answers, Objective, answer_loss

Side = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def ours(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return answer_loss(Answers(states, targets, weight), Objective(), len(targets)).loss


def dense(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(states, weight).float(), targets)


def seconds(side: Side, *inputs: torch.Tensor) -> tuple[float, float]:
    """What the loss and its gradients took, and the loss."""
    for one in inputs[:2]:
        one.grad = None
    began = time.perf_counter()
    loss = side(*inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began, float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--positions", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    targets = torch.randint(options.vocabulary, (options.positions,))
    print("precision        hidden   ours µs   dense µs   dense/ours")
    for dtype in (torch.bfloat16, torch.float32):
        for hidden in (64, 256, 576):
            states = torch.randn(options.positions, hidden, dtype=dtype, requires_grad=True)
            weight = torch.randn(options.vocabulary, hidden) / hidden**0.5
            weight = weight.to(dtype).requires_grad_()
            taken: dict[Side, list[float]] = {ours: [], dense: []}
            for _ in range(options.rounds + 1):  # the first one warms up
                losses = []
                for side, times in taken.items():
                    spent, loss = seconds(side, states, weight, targets)
                    times.append(spent / options.positions * 1e6)
                    losses.append(loss)
                assert abs(losses[0] - losses[1]) < 1e-3 * losses[1], losses
            mine, theirs = (statistics.median(times[1:]) for times in taken.values())
            name = str(dtype).removeprefix("torch.")
            print(f"{name:16} {hidden:6} {mine:9.0f} {theirs:10.0f} {theirs / mine:12.2f}")


if __name__ == "__main__":
    main()
