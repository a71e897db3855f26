"""Memory of the loss: positions selected before the projection, in chunks, against dense logits.

    python benchmarks/loss_memory.py [--vocabulary 49152] [--hidden 576]

Each side runs forward and backward of the same output projection and cross-entropy in a process of
its own, for growing numbers of answer positions; prints the peak of resident memory above what the
inputs take. The dense side is what a model's own forward pass does: logits of every position of
texts of which half is the answer, then the loss.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--side", choices=["ours", "dense"], help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(_peak(arguments.side, arguments.answers, arguments.vocabulary, arguments.hidden))
        return
    print("answer positions   ours MiB   dense MiB")
    for answers in (1024, 2048, 4096, 8192):
        peaks = [_measured(side, answers, arguments) for side in ("ours", "dense")]
        print(f"{answers:16,} {peaks[0]:10,} {peaks[1]:11,}", flush=True)


def _measured(side: str, answers: int, arguments: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--side", side, "--answers", str(answers)]
    command += ["--vocabulary", str(arguments.vocabulary), "--hidden", str(arguments.hidden)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak(side: str, answers: int, vocabulary: int, hidden: int) -> int:
    """MiB of resident memory that the loss and its gradients take at most."""
    import torch
    import torch.nn.functional as F

    from ray_pipeline.train.losses import Answers, Objective, answer_loss

    weight = torch.randn(vocabulary, hidden).mul_(0.02).requires_grad_()
    states = torch.randn(2 * answers, hidden, requires_grad=True)
    targets = torch.randint(vocabulary, (answers,))
    F.cross_entropy(F.linear(states[:8], weight), targets[:8]).backward()
    before = _resident()
    if side == "ours":
        chosen = Answers(states[answers:], targets, weight)
        answer_loss(chosen, Objective(), answers).loss.backward()
    else:
        labels = torch.cat([torch.full((answers,), -100), targets])
        F.cross_entropy(F.linear(states, weight), labels).backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024


def _resident() -> int:
    """KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
