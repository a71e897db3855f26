"""Losses written from their definitions, position by position; nothing of ours is used."""

from __future__ import annotations

import math

import torch


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits - torch.log(torch.exp(logits - logits.max()).sum()) - logits.max()


def kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Σ p (log p - log q) over probabilities of one position."""
    total = torch.zeros((), dtype=student.dtype)
    for p, q in zip(teacher, student, strict=True):
        if p > 0:
            total = total + p * (torch.log(p) - torch.log(q))
    return total


def dense_kl(teacher, student, temperature: float, k: int | None = None) -> torch.Tensor:
    return kl(
        torch.exp(log_softmax(teacher / temperature)), torch.exp(log_softmax(student / temperature))
    )


def bucket_kl(teacher, student, temperature: float, k: int) -> torch.Tensor:
    """Between the k likeliest tokens of the teacher and one bucket for all others."""
    p, q = torch.exp(log_softmax(teacher)), torch.exp(log_softmax(student))
    best = sorted(range(len(p)), key=lambda i: -float(p[i]))[:k]
    rest = [i for i in range(len(p)) if i not in best]
    grouped = []
    for one in (p, q):
        outcomes = [one[i] for i in best] + ([one[rest].sum()] if rest else [])
        tempered = torch.stack(outcomes) ** (1 / temperature)
        grouped.append(tempered / tempered.sum())
    return kl(*grouped)


def naive_loss(
    model, rows: list[tuple[list[int], list[bool]]], alpha: float = 1, beta: float = 0,
    temperature: float = 1, teacher=None, k: int | None = None, vocabulary: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """α·CE + β·T²·KL, each row alone and without padding, over the mean of all answer tokens."""
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for ids, mask in rows:
        logits = model(torch.tensor([ids])).logits[0]
        with torch.no_grad():
            teacher_logits = None if teacher is None else teacher(torch.tensor([ids])).logits[0]
        for position in range(1, len(ids)):
            if not mask[position]:
                continue
            tokens += 1
            student = logits[position - 1]
            total = total - alpha * log_softmax(student)[ids[position]]
            if teacher_logits is not None:
                between = dense_kl if k is None else bucket_kl
                pair = teacher_logits[position - 1][:vocabulary], student[:vocabulary]
                total = total + beta * temperature**2 * between(*pair, temperature, k)
    return total / tokens


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def norm(grads: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
