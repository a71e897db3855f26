"""How the loss falls with the amount of data: ``L(D) = E + B / D**beta``.

The form of Hoffmann et al. 2022 ("Training compute-optimal large language models") in the data
alone, for one size of model. E is the loss that no amount of data takes away, beta how fast the
rest goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Size (tokens or rows) and loss of each seed's trainings.
Points = Mapping[int, Sequence[tuple[float, float]]]

#: Parameters of the law, and so the fewest sizes that a fit needs.
PARAMETERS = 3
#: Residuals of log loss above this count linearly: a stray training does not bend the law.
_HUBER = 0.03
_STEEPEST = 4.0
#: Starting points of the fit: fraction of E in the loss, and beta.
_STARTS = [(share, beta) for share in (0.1, 0.5, 0.9) for beta in (0.1, 0.4, 1.2)]
#: E counts as 0 below this fraction of E + B.
_NOTHING = 1e-6


@dataclass(frozen=True)
class ScalingLaw:
    """A fit.

    Attributes:
        e: irreducible loss.
        b: reducible loss at one token.
        beta: exponent.
        residual: root mean square of log loss, measured minus fitted.
        sizes: different sizes that it was fitted to.
        seeds: of the trainings.
        intervals: of ``e`` and ``beta``: middle 95% of fits to resampled seeds; empty where there
            is one seed.
        remarks: reasons to distrust the fit.
    """

    e: float
    b: float
    beta: float
    residual: float
    sizes: int
    seeds: int
    intervals: Mapping[str, tuple[float, float]]
    remarks: tuple[str, ...]

    def loss(self, size: float) -> float:
        """The predicted loss at a size."""
        return float(self.e + self.b * size**-self.beta)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        intervals = {name: list(ends) for name, ends in self.intervals.items()}
        return {**asdict(self), "intervals": intervals, "remarks": list(self.remarks)}


@dataclass(frozen=True)
class NoLaw:
    """Why there is no fit."""

    why: str

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        return asdict(self)


def fit(points: Points, resamples: int = 200, seed: int = 0) -> ScalingLaw | NoLaw:
    """Fit the law to trainings of several sizes and seeds.

    Least squares on log loss, Huber's beyond 3%, with E and B not negative. The uncertainty is a
    bootstrap over seeds: all trainings of a seed are resampled together.

    Args:
        points: of each seed, size and loss of every training.
        resamples: of the bootstrap; equal resamples are fitted once.
        seed: of the bootstrap.

    Returns:
        The law, or why none can be fitted.
    """
    every = np.array([point for of_seed in points.values() for point in of_seed], dtype=float)
    every = every.reshape(-1, 2)
    sizes = np.unique(every[:, 0])
    if len(sizes) < PARAMETERS:
        return NoLaw(
            f"the law has {PARAMETERS} parameters, and the trainings' different sizes number "
            f"{len(sizes)}: train on subsets of at least {PARAMETERS} sizes"
        )
    ends = [every[every[:, 0] == size, 1].mean() for size in (sizes[0], sizes[-1])]
    if ends[1] >= ends[0]:
        return NoLaw("the loss does not fall from the smallest size to the largest")
    best = _fitted(every, _STARTS)
    intervals = _intervals(points, resamples, seed)
    return ScalingLaw(
        e=best.e,
        b=best.b,
        beta=best.beta,
        residual=best.residual,
        sizes=len(sizes),
        seeds=len(points),
        intervals=intervals,
        remarks=tuple(_remarks(best, len(sizes), len(points))),
    )


@dataclass(frozen=True)
class _Fit:
    e: float
    b: float
    beta: float
    residual: float


def _fitted(points: npt.NDArray[Any], starts: Sequence[tuple[float, float]]) -> _Fit:
    """The best of the fits from several starting points."""
    from scipy.optimize import least_squares

    sizes, log_loss = points[:, 0], np.log(points[:, 1])
    middle = float(np.exp(np.log(sizes).mean()))  # B at one token is a number out of scale
    falling = np.log(sizes / middle)

    def residuals(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        e, at_middle, beta = x
        return np.log(e + at_middle * np.exp(-beta * falling)) - log_loss

    lowest = float(points[:, 1].min())
    best = min(
        (
            least_squares(
                residuals,
                [share * lowest, (1 - share) * lowest, beta],
                bounds=([0, 1e-12, 1e-6], [np.inf, np.inf, _STEEPEST]),
                x_scale=[lowest, lowest, 0.3],
                loss="huber",
                f_scale=_HUBER,
                xtol=1e-12,
                ftol=1e-12,
                gtol=1e-12,
            )
            for share, beta in starts
        ),
        key=lambda fitted: fitted.cost,
    )
    e, at_middle, beta = map(float, best.x)
    residual = float(np.sqrt(np.mean(residuals(best.x) ** 2)))
    return _Fit(e, at_middle * middle**beta, beta, residual)


def _intervals(points: Points, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    if len(points) < 2 or resamples < 1:
        return {}
    draw = np.random.default_rng(seed)
    seeds = sorted(points)
    known: dict[tuple[int, ...], _Fit] = {}
    fits = []
    for _ in range(resamples):
        drawn = tuple(sorted(draw.choice(seeds, len(seeds)).tolist()))
        if drawn not in known:
            drawn_points = [point for number in drawn for point in points[number]]
            known[drawn] = _fitted(np.array(drawn_points, dtype=float), _STARTS[::4])
        fits.append(known[drawn])
    return {
        name: (
            float(np.quantile([getattr(each, name) for each in fits], 0.025)),
            float(np.quantile([getattr(each, name) for each in fits], 0.975)),
        )
        for name in ("e", "beta")
    }


def _remarks(law: _Fit, sizes: int, seeds: int) -> list[str]:
    remarks = []
    if sizes == PARAMETERS:
        remarks.append(
            f"{PARAMETERS} parameters and {PARAMETERS} sizes: the curve goes through the means "
            "whatever they are, so a good fit proves nothing, and its uncertainty means little"
        )
    if seeds == 1:
        remarks.append("one seed: no uncertainty can be given")
    elif seeds < 10:
        remarks.append(f"a bootstrap over {seeds} seeds gives intervals that are too narrow")
    scale = law.e + law.b
    if law.e < _NOTHING * scale or law.e < 1e-3:
        remarks.append("E is at 0, the edge of what is allowed: the sizes do not show the bend")
    if law.beta > 0.99 * _STEEPEST or law.beta < 1e-4:
        remarks.append("beta is at the edge of what is allowed: the sizes do not tell it")
    return remarks
