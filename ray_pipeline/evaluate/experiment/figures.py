"""The figures of an experiment as PNG, for papers and slides; the report draws its own."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.statistics import perplexity_of

SIZE = "figures/exp2_quality_vs_quantity.png"
EFFICIENCY = "figures/exp2_training_efficiency.png"
CURVES = "figures/learning_curves.png"
#: All of them, relative to the run directory.
FIGURES = (SIZE, EFFICIENCY, CURVES)

_SUBSET, _CONTROL, _QUIET = "#0a6b70", "#d9912b", "#60686f"
#: Distinguishable with red-green colour blindness (Okabe and Ito).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#94653a")
_MODES = {
    "epochs": "each subset with its own epochs",
    "tokens": "one budget of tokens and updates for all",
}


def write_figures(storage: Storage, analysis: Mapping[str, Any], dpi: int = 300) -> None:
    """Draw and write all figures, a panel for each mode in each.

    Args:
        storage: the run directory.
        analysis: the result of `analysis.analyse`.
        dpi: dots per inch.
    """
    drawings = {SIZE: _size, EFFICIENCY: _efficiency, CURVES: _curves}
    for path, draw in drawings.items():
        storage.write_bytes(path, _png(analysis["modes"], draw, dpi))


def _png(
    modes: Mapping[str, Any], draw: Callable[[Any, Mapping[str, Any]], None], dpi: int
) -> bytes:
    # Without pyplot, which has global state: open figures, and a backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(modes), 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(modes), squeeze=False)[0]
    for panel, (mode, found) in zip(panels, modes.items(), strict=True):
        panel.set_title(_MODES.get(mode, mode), fontsize=11)
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
        draw(panel, found)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _size(panel: Any, found: Mapping[str, Any]) -> None:
    """Perplexity against size; bars are intervals."""
    for control, colour, label, dashes in (
        (False, _SUBSET, "best by quality", "-"),
        (True, _CONTROL, "random rows", "--"),
    ):
        # Of several draws of one size, the first is in the figure.
        of_size = {
            one["rows"]: one
            for one in reversed(found["subsets"])
            if one["control"] is control and _is_drawn(one)
        }
        of = [of_size[rows] for rows in sorted(of_size)]
        if not of:
            continue
        rows = [one["rows"] for one in of]
        means = [one["perplexity"]["mean"] for one in of]
        ends = [_ends(one["perplexity"]) for one in of]
        errors = [
            [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
            [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
        ]
        panel.errorbar(rows, means, errors, fmt=f"o{dashes}", color=colour, label=label, capsize=4)
        if not control:
            _name_sizes(panel, of)
        panel.legend(frameon=False)
        panel.set_yscale("log")
    panel.margins(0.15)
    _plain_numbers(panel.yaxis)
    panel.set_xlabel("rows of the subset")
    panel.set_ylabel("perplexity on the test rows")


def _name_sizes(panel: Any, of: Sequence[Mapping[str, Any]]) -> None:
    """Label the axis of rows with the subsets."""
    panel.set_xscale("log")
    ticks = [f"{one['subset']}\n{one['rows']:,}" for one in of]
    panel.set_xticks([one["rows"] for one in of], ticks, fontsize=9)
    panel.xaxis.minorticks_off()


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axis.set_minor_locator(NullLocator())


def _is_drawn(one: Mapping[str, Any]) -> bool:
    return one["rows"] > 0 and math.isfinite(one["perplexity"]["mean"])


def _ends(perplexity: Mapping[str, Any]) -> tuple[float, float]:
    """The ends of the interval; the mean twice if there is none, or it is infinite."""
    low, high, mean = (perplexity[name] for name in ("low", "high", "mean"))
    return (mean, mean) if low is None or not math.isfinite(high) else (low, high)


def _efficiency(panel: Any, found: Mapping[str, Any]) -> None:
    """Time to the target as bars; a subset that does not reach it is labelled so."""
    target = found["target"]["perplexity"]
    subsets: Sequence[Mapping[str, Any]] = found["subsets"]
    seconds = [(one["to_target"]["seconds"] or {}).get("mean") for one in subsets]
    size, unit = _unit(max((value for value in seconds if value), default=1.0))
    for place, (one, value) in enumerate(zip(subsets, seconds, strict=True)):
        if value is None:
            arrival = one["to_target"]
            some = f" by {arrival['reached']} of {arrival['seeds']}" if arrival["reached"] else ""
            words = f"reached{some}" if some else "not reached"
            panel.text(place, 0, f" {words}", rotation=90, ha="center", va="bottom", color=_QUIET)
            continue
        low, high = _ends(one["to_target"]["seconds"])
        low = max(low, 0.0)
        error = [[max(0.0, value - low) / size], [max(0.0, high - value) / size]]
        colour = _CONTROL if one["control"] else _SUBSET
        panel.bar(place, value / size, color=colour, yerr=error, capsize=4)
    panel.set_xticks(
        range(len(subsets)), [one["subset"] for one in subsets], rotation=30, ha="right"
    )
    shown = "no common perplexity" if target is None else f"perplexity {target:.4g}"
    panel.set_ylabel(f"{unit} of training to {shown}")
    panel.set_xlim(-0.6, len(subsets) - 0.4)
    panel.set_ylim(bottom=0)


def _unit(seconds: float) -> tuple[float, str]:
    if seconds >= 7_200:
        return 3_600.0, "hours"
    return (60.0, "minutes") if seconds >= 120 else (1.0, "seconds")


def _curves(panel: Any, found: Mapping[str, Any]) -> None:
    """Perplexity on the validation rows against tokens; a control has the colour of its subset."""
    from matplotlib.ticker import EngFormatter

    names = list(dict.fromkeys(one["of"] for one in found["subsets"]))
    for one in found["subsets"]:
        every = [(point["tokens"], perplexity_of(point["loss"])) for point in one["curve"]]
        points = [(x, y) for x, y in every if x > 0 and math.isfinite(y)]
        if not points:
            continue
        panel.plot(
            *zip(*points, strict=True),
            color=_COLOURS[names.index(one["of"]) % len(_COLOURS)],
            linestyle="--" if one["control"] else "-",
            marker="." if len(points) < 30 else "",
            label=one["subset"],
        )
    target = found["target"]["perplexity"]
    if target is not None:
        panel.axhline(target, color=_QUIET, linewidth=0.8, linestyle=":", label="target")
    if panel.lines:
        panel.set_yscale("log")
        _plain_numbers(panel.yaxis)
        panel.legend(frameon=False, fontsize=8)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set_xlabel("tokens learnt")
    panel.set_ylabel("perplexity on the validation rows")
