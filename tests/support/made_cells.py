"""Records of trainings with known results: losses that follow a power law, and their curves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Cell

SIZES = {"ultra_high_10k": 10_000, "high_100k": 100_000, "medium_1m": 1_000_000}
TOKENS_A_ROW = 100
VOCABULARY = 50_257
#: E, B, beta of the subsets and of their controls.
LAW, CONTROL_LAW = (2.0, 60.0, 0.3), (2.0, 90.0, 0.3)


def law(size: float, e: float, b: float, beta: float) -> float:
    return e + b / size**beta


def record(
    subset: str = "high_100k",
    seed: int = 1,
    loss: float | None = 3.0,
    rows: int = 100_000,
    control: bool = False,
    mode: str = "epochs",
    learning_rate: float = 2e-4,
    evaluations: int = 10,
    **change: Any,
) -> dict[str, Any]:
    """A record as a training writes it; the curve falls from log V to the loss, exponentially."""
    name = f"{subset}-random" if control else subset
    tokens = rows * TOKENS_A_ROW
    seen = 3 * tokens if mode == "epochs" else 5_000_000
    start = math.log(VOCABULARY)
    end = 3.0 if loss is None else loss
    curve = [
        {
            "step": step,
            "tokens": seen * step // evaluations,
            "seconds": 100.0 * seen / 1e6 * step / evaluations,
            "loss": end + (start - end) * math.exp(-6 * step / evaluations),
        }
        for step in range(evaluations + 1)
    ]
    return {
        "cell": f"{name}.{mode}.seed{seed}.lr{learning_rate}",
        "subset": name,
        "of": subset,
        "control": control,
        "mode": mode,
        "seed": seed,
        "learning_rate": learning_rate,
        "rows": rows,
        "tokens": tokens,
        "tokens_seen": seen,
        "steps": evaluations,
        "seconds": 100.0 * seen / 1e6,
        "parameters": 3_000_000,
        "curve": curve,
        "validation_loss": curve[-1]["loss"],
        "test_loss": loss,
        "test_tokens": 40_000,
        "model": f"models/{name}-{mode}" if seed == 1 else None,
        **change,
    }


def records(
    seeds: int = 3,
    noise: float = 0.01,
    modes: tuple[str, ...] = ("epochs",),
    sizes: Mapping[str, int] = SIZES,
    controls: bool = True,
    of_subset: Callable[[float], float] = lambda tokens: law(tokens, *LAW),
    of_control: Callable[[float], float] = lambda tokens: law(tokens, *CONTROL_LAW),
) -> list[dict[str, Any]]:
    """All records of an experiment; a seed's luck is common to all of its trainings, mostly."""
    draw = random.Random(7)
    made = []
    for seed in range(1, seeds + 1):
        luck = draw.gauss(0, noise)
        for subset, rows in sizes.items():
            for control in (False, True)[: 1 + controls]:
                truth = (of_control if control else of_subset)(rows * TOKENS_A_ROW)
                for mode in modes:
                    loss = truth + luck + draw.gauss(0, noise / 4)
                    made.append(record(subset, seed, loss, rows, control, mode))
    return made


def cells(**change: Any) -> list[Cell]:
    return [Cell.from_json(one) for one in records(**change)]
