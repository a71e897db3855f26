"""Analysis of the experiment: can fewer rows of higher quality replace more rows?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from pydantic import Field

from ray_pipeline.core.config import AddedWith
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.experiment.analysis import Question, analyse
from ray_pipeline.evaluate.experiment.cells import Cell, read_cells
from ray_pipeline.evaluate.experiment.orderings import LENGTH, RowScores, rank_correlation
from ray_pipeline.evaluate.statistics import perplexity_of
from ray_pipeline.models.tokenizer import load_tokenizer, vocabulary_size
from ray_pipeline.rundir.layout import SPLIT, SUBSETS
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, StageConfig, Workplace
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.training.tokenise import Tokenise

Floats = npt.NDArray[np.float64]
#: One row per cell, one row per subset, and all results; relative to the run directory.
RESULTS, SUMMARY = "experiment/results.csv", "experiment/summary.csv"
ANALYSIS = "experiment/analysis.json"
_OF_CELL = ("cell", "subset", "of", "control", "mode", "seed", "learning_rate", "rows", "tokens")
_OF_TRAINING = ("tokens_seen", "steps", "seconds", "parameters", "validation_loss", "test_loss")


class AnalyseTradeoff(ArtifactStage):
    """Writes the tables, the analysis and the figures of an experiment from its records."""

    name = "analyse"
    version = 3
    uses_seed = True

    class Config(StageConfig):
        target_perplexity: float | None = Field(
            None,
            gt=1,
            description="perplexity at which training time and tokens are read off the curves; "
            "20 in the original experiment; null: the lowest perplexity that all trainings of a "
            "mode reach",
        )
        better_by: float = Field(
            0.1,
            gt=0,
            lt=1,
            description="fraction by which a perplexity must be lower to count as better; 10% in "
            "the original experiment",
        )
        confidence: float = Field(0.95, gt=0, lt=1, description="confidence level of all intervals")
        bootstrap: int = Field(
            200,
            ge=0,
            description="number of bootstrap resamples of the seeds, for the intervals of the "
            "scaling law",
        )
        vocabulary: int | None = Field(
            None,
            ge=2,
            description="vocabulary size, which determines the loss of an untrained model; null: "
            "that of the tokenizer",
        )
        dpi: Annotated[int, AddedWith(300)] = Field(
            300,
            ge=30,
            description="resolution of the PNG files in dots per inch; 300 in the original "
            "experiment",
        )

    config: Config

    @property
    def _orderings(self) -> list[str]:
        """The orderings that are compared; empty in most experiments."""
        select = self.find_stage(SelectSubsets)
        return [] if select is None else list(select.config.orderings)

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The scores and lengths of the rows, where orderings are compared."""
        if not self._orderings:
            return {}
        scores = dict.fromkeys(_scores(self._orderings), pa.float64())
        lists = {"input_ids": pa.list_(pa.int32()), "subsets": pa.list_(pa.string())}
        return {**scores, **lists, "split": pa.string()}

    @property
    def makes(self) -> Sequence[str]:
        """The tables, the analysis and the figures."""
        from ray_pipeline.evaluate.experiment.figures import FIGURES

        return (RESULTS, SUMMARY, ANALYSIS, *FIGURES)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Analyse the training records in the run directory."""
        from ray_pipeline.evaluate.experiment.figures import write_figures

        storage, config = place.storage, self.config
        cells = read_cells(storage)
        question = Question(
            vocabulary=config.vocabulary or self._vocabulary(),
            target=config.target_perplexity,
            better_by=config.better_by,
            confidence=config.confidence,
            resamples=config.bootstrap,
            seed=self.settings.seed,
        )
        try:
            scores = row_scores(rows, self._orderings) if self._orderings else None
            analysis = analyse(cells, question, scores)
        except ValueError as error:
            where = storage.uri("experiment/cells")
            raise RunError(
                f"{where}: {error}: delete the records that are not of this run"
            ) from None
        _write_results(storage, cells)
        _write_summary(storage, analysis)
        storage.write_bytes(ANALYSIS, orjson.dumps(analysis, option=orjson.OPT_INDENT_2))
        write_figures(storage, analysis, config.dpi)
        for mode, found in analysis["modes"].items():
            for sentence in found["recommendation"]:
                place.say(f"  {mode}: {sentence}")
        for sentence in (analysis.get("orderings") or {}).get("sentences", []):
            place.say(f"  orderings: {sentence}")
        return _figures(analysis)

    def _vocabulary(self) -> int:
        return vocabulary_size(load_tokenizer(self.stage_of(Tokenise).tokenizer))


def _scores(orderings: Sequence[str]) -> list[str]:
    """The columns of scores that orderings are by, the quality first; without the length."""
    columns = [ordering.removeprefix("-") for ordering in orderings]
    return [name for name in dict.fromkeys(["quality", *columns]) if name != LENGTH]


def row_scores(rows: StoredRows, orderings: Sequence[str]) -> RowScores:
    """Means of scores and lengths over every subset, and their correlations over all rows.

    Of the rows to train on, the driver holds one number for each score and one for the length.
    """
    scores = _scores(orderings)
    values: dict[str, list[Floats]] = {name: [] for name in (*scores, LENGTH)}
    sums: dict[str, dict[str, Floats]] = {}
    for table in rows.tables([*scores, "input_ids", SPLIT, SUBSETS]):
        train = table.filter(pc.equal(table[SPLIT], "train"))
        length = pc.list_value_length(train["input_ids"]).cast(pa.float64())
        numbers = {name: train[name].cast(pa.float64()).to_numpy() for name in scores}
        numbers[LENGTH] = length.to_numpy()
        for name, column in numbers.items():
            values[name].append(column)
        _add_to_subsets(sums, train[SUBSETS].combine_chunks(), numbers)
    whole = {name: np.concatenate(parts) for name, parts in values.items()}
    return RowScores(
        rows=len(whole[LENGTH]),
        with_length={name: _correlation(whole[name], whole[LENGTH]) for name in scores},
        means={
            subset: {
                name: float(total / number) if number else math.nan
                for name, (total, number) in of_subset.items()
            }
            for subset, of_subset in sums.items()
        },
    )


def _add_to_subsets(
    sums: dict[str, dict[str, Floats]], subsets: pa.Array, numbers: Mapping[str, Floats]
) -> None:
    """Add sums and counts of the finite numbers of each subset's rows."""
    parents = pc.list_parent_indices(subsets)
    names = pc.list_flatten(subsets)
    for subset in pc.unique(names).to_pylist():
        members = parents.filter(pc.equal(names, subset)).to_numpy()
        own = sums.setdefault(subset, {name: np.zeros(2) for name in numbers})
        for name, column in numbers.items():
            known = column[members][np.isfinite(column[members])]
            own[name] += (known.sum(), len(known))


def _correlation(score: Floats, length: Floats) -> float | None:
    known = np.isfinite(score)
    return rank_correlation(score[known].tolist(), length[known].tolist())


def _write_results(storage: Storage, cells: Sequence[Cell]) -> None:
    lines = []
    for cell in cells:
        of_cell = {name: _field(cell, name) for name in _OF_CELL}
        of_training = {name: getattr(cell, name) for name in _OF_TRAINING}
        perplexity = None if cell.test_loss is None else perplexity_of(cell.test_loss)
        lines.append(
            {**of_cell, **of_training, "perplexity": perplexity, "diverged": cell.diverged}
            | {"model": cell.model}
        )
    _write_csv(storage, RESULTS, lines)


def _field(cell: Cell, name: str) -> Any:
    return cell.name if name == "cell" else getattr(cell, name)


def _write_summary(storage: Storage, analysis: Mapping[str, Any]) -> None:
    lines = []
    for mode, found in analysis["modes"].items():
        target = found["target"]["perplexity"]
        for one in found["subsets"]:
            lines.append(_summary(mode, one, target))
    _write_csv(storage, SUMMARY, lines)


def _summary(mode: str, one: Mapping[str, Any], target: float | None) -> dict[str, Any]:
    loss, perplexity, arrival = one["loss"], one["perplexity"], one["to_target"]
    names = ("gain", "gain_per_1000_rows", "gain_per_million_tokens")
    more = ("gain_per_million_tokens_seen", "performance_per_sample", "performance_per_token")
    return {
        "mode": mode,
        **{name: one[name] for name in ("subset", "of", "control", "rows", "tokens")},
        "tokens_seen": one["tokens_seen"],
        "seeds": len(one["seeds"]),
        "diverged_seeds": len(one["diverged_seeds"]),
        "learning_rate": one["learning_rate"],
        **{f"loss{end}": loss[key] for end, key in _ENDS.items()},
        **{f"perplexity{end}": perplexity[key] for end, key in _ENDS.items()},
        **{name: one[name] for name in (*names, *more)},
        "seconds": one["seconds"]["mean"],
        "seconds_per_row": one["seconds_per_row"],
        "tokens_per_second": one["tokens_per_second"]["mean"],
        "target_perplexity": target,
        "seeds_that_reach_it": arrival["reached"],
        "seconds_to_target": (arrival["seconds"] or {}).get("mean"),
        "tokens_to_target": (arrival["tokens"] or {}).get("mean"),
    }


_ENDS = {"": "mean", "_low": "low", "_high": "high"}


def _write_csv(storage: Storage, path: str, lines: Sequence[Mapping[str, Any]]) -> None:
    names = list(lines[0]) if lines else ["subset"]
    table = pa.table({name: [line[name] for line in lines] for name in names})
    with storage.writer(path) as file:
        pacsv.write_csv(table, file)


def _figures(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """What `diff` compares between runs: by mode and subset, without curves."""
    modes = {
        mode: {
            "threshold_by_rule": found["threshold"]["rule"]["subset"],
            "enough_by_intervals": found["threshold"]["intervals"]["subset"],
            "target_perplexity": found["target"]["perplexity"],
            "selection": {one["subset"]: one["verdict"] for one in found["controls"]},
            "perplexity": {one["subset"]: one["perplexity"] for one in found["subsets"]},
            "loss": {one["subset"]: one["loss"] for one in found["subsets"]},
            "scaling": found["scaling"],
            "recommendation": found["recommendation"],
        }
        for mode, found in analysis["modes"].items()
    }
    return {
        **{f"threshold, {mode}": found["threshold_by_rule"] for mode, found in modes.items()},
        "cells": analysis["cells"],
        "excluded": [one["cell"] for one in analysis["excluded"]],
        "modes": modes,
    }
