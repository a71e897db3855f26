"""The experiment: identical models, trained from scratch on every subset and its random control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.evaluate.experiment.cells import CellPlan
from ray_pipeline.models.text import TextConfig
from ray_pipeline.models.tokenizer import load_tokenizer, vocabulary_size
from ray_pipeline.rundir.layout import CELLS, INDEX, is_ordering, subset_and_draw
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Workplace
from ray_pipeline.stages.experiment.config import Parts, SubsetSettings, TrainSubsetsConfig
from ray_pipeline.stages.experiment.cost import TrainingCost, subset_rows
from ray_pipeline.stages.subsets.config import SelectSubsetsConfig
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.stages.training.split import SplitStage
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.batches import BatchConfig, Budget
from ray_pipeline.train.census import Census, PartOfRows, take_census
from ray_pipeline.train.job import ModelSource, Pace, TrainingJob
from ray_pipeline.train.loop import LoopConfig
from ray_pipeline.tune.cells import CellTraining, forget_others


class TrainSubsets(ArtifactStage):
    """Trains a model from scratch on each subset: ``experiment/cells/*.json``, and some models.

    A cell is a subset or its control, a seed, a learning rate and a mode. All cells have the same
    model, validation rows and test rows. The last weights are tested: weights chosen by the lowest
    validation loss would be chosen by rows that the comparison calls unseen.
    """

    name = "train-subsets"
    #: 2: in the mode ``tokens`` a step is a number of tokens. Until then it was a number of rows.
    version = 2
    needs_stages = (SelectSubsets, Tokenise)
    reads = {
        "input_ids": pa.list_(pa.int32()),
        "answer_mask": pa.list_(pa.bool_()),
        "split": pa.string(),
        "subsets": pa.list_(pa.string()),
    }
    makes = (INDEX,)
    Config = TrainSubsetsConfig

    config: TrainSubsetsConfig

    @property
    def text(self) -> TextConfig:
        """The configuration with which the rows were tokenised."""
        return self.stage_of(Tokenise).config.text

    @property
    def _selection(self) -> SelectSubsetsConfig:
        return self.stage_of(SelectSubsets).config

    @property
    def subsets(self) -> list[str]:
        """Names of the subsets, without their controls."""
        return list(self._selection.subsets)

    @property
    def names(self) -> list[str]:
        """Names of all subsets and controls, the controls after their subset, and of orderings."""
        every = self._selection.names()
        own = [name for subset in self.subsets for name, of, _ in every if of == subset]
        return own + [name for name in self._selection.trained_names() if is_ordering(name)]

    def check(self) -> None:
        """Check the model's size, the batches, the held-out rows and the names in settings."""
        longest, config = self.text.max_tokens, self.config
        where = f"stages.{self.stage_of(Tokenise).name}.text.max_tokens"
        if longest > config.model.n_positions:
            raise UserError(
                f"model.n_positions is {config.model.n_positions}, and texts have up to {longest} "
                f"tokens: raise it, or lower {where}"
            )
        if longest > config.batches.batch_tokens:
            raise UserError(
                f"batches.batch_tokens is {config.batches.batch_tokens}, and one text may have "
                f"{longest} tokens: raise it, or lower {where}"
            )
        for name in sorted(config.settings.keys() - set(self.subsets)):
            mend = ": a control has its subset's" if subset_and_draw(name)[1] else ""
            raise UserError(
                f"settings.{name}: there is no such subset{mend}. Subsets: "
                f"{', '.join(self.subsets)}"
            )
        if self._selection.orderings and "tokens" not in config.modes:
            where = f"stages.{self.stage_of(SelectSubsets).name}.orderings"
            raise UserError(
                f"{where}: orderings are compared in the mode tokens, with equally many updates: "
                "add tokens to modes, or set orderings to []"
            )
        split = self.find_stage(SplitStage)
        for side in ("validation", "test"):
            if split is not None and getattr(split.config, side) == 0:
                raise UserError(
                    f"stages.{split.name}.{side} is 0, and the trainings are compared on such rows:"
                    " set it, as to 0.05"
                )

    def resources(self) -> Resources:
        """The resources of one cell; more cells are trained at the same time if they fit."""
        config = self.config
        return config.workers.resources() if config.workers.number > 1 else config.resources()

    def estimate(self, rows: pa.Table, scale: float) -> str | None:
        """Estimate the cost of the trainings from a sample with ``scale`` rows per sampled row."""
        sizes = subset_rows(self._selection, rows, scale)
        mean = _mean_tokens(rows)
        if not sizes or not mean:
            return None
        smallest = self._selection.smallest
        parts = {
            name: (sizes[of], round(sizes[of] * mean))
            for name in self.names
            for of in [smallest if is_ordering(name) else subset_and_draw(name)[0]]
            if of in sizes
        }
        steps = f"; mode tokens: {self.config.budget(parts).steps:,} updates in each training"
        orderings = {name: part for name, part in parts.items() if is_ordering(name)}
        price = f"; of these for orderings {self._cost(orderings, parts)}" if orderings else ""
        return f"{self._cost(parts)}{steps if 'tokens' in self.config.modes else ''}{price}"

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Train all cells without a stored record."""
        require_rows(
            self,
            rows,
            train="to train on",
            validation="on which the trainings are compared",
            test="on which the trainings are compared",
        )
        census = take_census(rows, self.names)
        self._check_rows(census)
        cells = self.cells(census, rows, place)
        forget_others(place.storage, cells)
        place.say(f"  {self._cost(census.sizes)}")
        if "tokens" in self.config.modes:
            budget = self.config.budget(census.sizes, census.longest)
            place.say(
                f"  mode tokens: {budget.steps:,} updates of {budget.tokens / budget.steps:,.0f} "
                "tokens for every training"
            )
        self._train(cells, place)
        records = [_record(cell) for cell in cells]
        index = [{name: record[name] for name in _INDEXED} for record in records]
        place.storage.write_bytes(INDEX, orjson.dumps(index, option=orjson.OPT_INDENT_2))
        return _figures(records, census)

    def outcome(self, place: Workplace) -> Any:
        """Losses and times, which a second training may not reproduce exactly."""
        return orjson.loads(place.storage.read_bytes(INDEX) or b"null")

    def cells(self, census: Census, rows: StoredRows, place: Workplace) -> list[CellTraining]:
        """All trainings of the experiment."""
        config, sizes = self.config, census.sizes
        budget = config.budget(sizes, census.longest)
        trainings = []
        for name, part in census.subsets.items():
            for mode in config.modes_of(name):
                settings = config.settings_in(mode, subset_and_draw(name)[0], sizes)
                length = budget if mode == "tokens" else None
                epochs = settings.epochs or 1
                for rate, seed in product(config.rates(settings), config.seeds):
                    plan = CellPlan(name, mode, seed, rate, part.rows, part.tokens)
                    trainings.append(
                        CellTraining(
                            plan,
                            job=self._job(plan, settings, length, rows, place),
                            tokens_to_see=length.tokens if length else epochs * part.tokens,
                            identity=self._identity(census, part),
                        )
                    )
        return trainings

    def _job(
        self,
        plan: CellPlan,
        settings: SubsetSettings,
        budget: Budget | None,
        rows: StoredRows,
        place: Workplace,
    ) -> TrainingJob:
        """The training of a cell; ``budget``: its length in place of the settings' epochs."""
        config, evaluate_every = self.config, settings.evaluate_every
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=f"{place.folder}/{plan.name}",
            model=ModelSource(
                self._tokenizer,
                scratch=config.model,
                gradient_checkpointing=config.gradient_checkpointing,
            ),
            name=plan.name if self._keeps_model(plan) else None,
            text=self.text,
            loop=LoopConfig(
                **config.loop.model_dump(),
                learning_rate=plan.learning_rate,
                epochs=1 if budget else settings.epochs or 1,
                evaluate_every=evaluate_every,
                patience=None,
                seed=plan.seed,
            ),
            batches=BatchConfig(**config.batches.model_dump()),
            subset=plan.subset,
            pace=Pace(
                budget=budget,
                evaluations=None if evaluate_every else config.evaluations,
                warmup_share=1 / 3,
            ),
            keep="last",
            test=True,
        )

    def _keeps_model(self, plan: CellPlan) -> bool:
        if self.config.keep_models == "first_seed":
            # What further draws of random rows write says nothing more: they are for the losses.
            is_further_draw = subset_and_draw(plan.subset)[1] > 1
            is_extra = is_further_draw or is_ordering(plan.subset)
            return bool(plan.seed == self.config.seeds[0]) and not is_extra
        return bool(self.config.keep_models == "all")

    @property
    def _tokenizer(self) -> str:
        """Folder or hub id of the tokenizer with which the rows were tokenised."""
        return self.stage_of(Tokenise).tokenizer

    def _identity(self, census: Census, part: PartOfRows) -> list[Any]:
        """Identity of everything that cells depend on besides their own configuration."""
        rows = [part.digest, census.validation.digest, census.test.digest]
        tokenizer = self.stage_of(Tokenise).revision("model")
        return [_CELL_VERSION, *rows, tokenizer, self.text.identity()]

    def _check_rows(self, census: Census) -> None:
        for name, part in census.subsets.items():
            if part.rows == 0:
                raise UserError(
                    f"subset '{name}' has no rows to train on: lower the threshold that it sets in "
                    f"stages.{self.stage_of(SelectSubsets).name}.subsets, or bring more rows"
                )

    def _train(self, cells: Sequence[CellTraining], place: Workplace) -> None:
        from ray_pipeline.tune.grid import run_grid, run_in_turn

        config = self.config
        if config.workers.number > 1:
            run_in_turn(cells, config.workers, place.say)
            return
        run_grid(cells, config.trial_workers(self.name), place.say)

    def _cost(self, some: Parts, every: Parts | None = None) -> TrainingCost:
        """The cost of the trainings on some of all subsets; None: on all of them."""
        parts = every or some
        config, total, number = self.config, 0, 0
        budget = config.budget(parts)
        for name, (_, tokens) in some.items():
            for mode in config.modes_of(name):
                settings = config.settings_in(mode, subset_and_draw(name)[0], parts)
                seen = budget.tokens if mode == "tokens" else (settings.epochs or 1) * tokens
                times = len(config.seeds) * len(config.rates(settings))
                total, number = total + times * seen, number + times
        return TrainingCost(
            number, config.model.parameters(self._vocabulary), total, config.flops_per_second
        )

    @property
    def _vocabulary(self) -> int:
        return vocabulary_size(load_tokenizer(self._tokenizer))


#: Of a cell's identity. Records of the mode ``epochs`` that were trained before version 2 of the
#: stage are still valid; those of ``tokens`` differ by their budget, which now has steps.
_CELL_VERSION = 1
_INDEXED = (
    "cell", "subset", "control", "mode", "seed", "learning_rate", "steps", "tokens_seen",
    "seconds", "validation_loss", "test_loss", "model", "diverged", "trained_as", "digest",
)  # fmt: skip


def _mean_tokens(rows: pa.Table) -> float:
    """Mean tokens per row in a sample; 0 if its rows are not tokenised yet."""
    return pc.mean(pc.list_value_length(rows["input_ids"])).as_py() or 0.0


def _record(cell: CellTraining) -> dict[str, Any]:
    record = cell.record()
    if record is None:
        raise RunError(f"the training of cell {cell.name} has left no record")
    return record.to_json()


def _figures(records: Sequence[Mapping[str, Any]], census: Census) -> dict[str, Any]:
    trained = {record["trained_as"]: record for record in records}
    counts = [record["parameters"] for record in records if record["parameters"]]
    return {
        "cells": len(records),
        "trainings": len(trained),
        "diverged": sorted(name for name, record in trained.items() if record["diverged"]),
        "parameters": counts[0] if counts else None,
        "tokens_seen": sum(record["tokens_seen"] for record in trained.values()),
        "seconds": round(sum(record["seconds"] for record in trained.values()), 3),
        "validation_rows": census.validation.rows,
        "test_rows": census.test.rows,
        "subsets": {
            name: {"rows": part.rows, "tokens": part.tokens}
            for name, part in census.subsets.items()
        },
        "records": CELLS,
    }
