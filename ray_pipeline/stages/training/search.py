"""Hyper-parameter search for the distillation."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import yaml
from pydantic import Field

from ray_pipeline.core.config import Section
from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.storage import Storage
from ray_pipeline.models import packaged as models
from ray_pipeline.rundir.models import get_model
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Stage, Workplace
from ray_pipeline.stages.training.base import TrainingStage
from ray_pipeline.stages.training.distil import Distil, ParameterSearch
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.stages.training.split import SplitStage
from ray_pipeline.stages.training.trial_workers import TrialWorkersConfig
from ray_pipeline.train.job import TrainingJob
from ray_pipeline.train.losses import Objective
from ray_pipeline.tune.trials import (
    BEST,
    Parameters,
    PruningConfig,
    Space,
    TrialRecord,
    Trials,
    best,
    get_best,
    put_best,
)

#: In the run directory: every finished trial, as it finished; the same as a table; and the run's
#: configuration with the best parameters in it.
TRIALS, TABLE, BEST_CONFIG = "search/trials.jsonl", "search/trials.csv", "search/best.yaml"


class TrialLoopConfig(Section):
    """Overrides of the training loop in trials; null: as in ``stages.distil.loop``."""

    epochs: int | None = Field(
        None, ge=1, description="number of epochs of a trial; null: as in distil.loop"
    )
    max_steps: int | None = Field(
        None, ge=1, description="maximum number of steps of a trial; null: as in distil.loop"
    )
    evaluate_every: int | None = Field(
        None,
        ge=1,
        description="steps between evaluations of a trial; pruning needs several evaluations "
        "per trial; null: as in distil.loop",
    )


class Search(TrainingStage, ParameterSearch):
    """Searches for better α, β, temperature and learning rate than those of ``stages.distil``.

    It comes before `Distil`, which then uses the best ones. Trials train the student of `Distil`
    on its rows and with its teacher, and are compared by the cross-entropy of the validation rows.
    """

    name = "search"
    uses_seed = True

    class Config(TrialWorkersConfig):
        trials: int = Field(0, ge=0, description="number of trials; 0: no search")
        space: Space = Space()
        loop: TrialLoopConfig = TrialLoopConfig()
        pruning: PruningConfig | None = Field(
            PruningConfig(),
            description="successive halving, which stops trials that perform poorly; null: every "
            "trial is trained to its end",
        )

    config: Config

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stages that `Distil` needs, because trials are trainings of `Distil`."""
        return self.stage_of(Distil).needs_stages if self.config.trials else ()

    @property
    def makes(self) -> Sequence[str]:
        """The best parameters, a configuration with them, and the table of all trials."""
        return (BEST, BEST_CONFIG, TABLE) if self.config.trials else ()

    @cached_property
    def distil(self) -> Distil:
        """The stage whose parameters are optimised."""
        distil = self.stage_of(Distil)
        return distil.bound(distil.config, _with_models(self.settings, distil))

    @property
    def training(self) -> Distil.Config:
        """The training configuration of `Distil`."""
        return self.distil.config

    def identity(self) -> dict[str, Any]:
        """Its own identity and that of `Distil`, which comes later in the job."""
        if self.config.trials == 0:
            return {"config": {"trials": 0}}
        return {**super().identity(), "distil": self.distil.identity()}

    def check(self) -> None:
        """Check that the configured parameters, which are tried first, are in the search space."""
        if self.config.trials == 0:
            return
        self.distil.check()
        parameters, space = self.training.parameters, self.config.space
        for name in space.outside(parameters):
            where = f"loop.{name}" if name == "learning_rate" else name
            raise UserError(
                f"stages.distil.{where} is {getattr(parameters, name):g}, outside of space.{name}, "
                f"{getattr(space, name)}: it is what is tried first, so widen the range"
            )
        split = self.find_stage(SplitStage)
        if split is not None and split.config.validation == 0:
            raise UserError(
                f"trials are compared by their validation loss, and stages.{split.name}.validation "
                "is 0"
            )

    def resources(self) -> Resources | None:
        """The resources of one trial; more trials run at the same time if they fit."""
        return self.config.resources() if self.config.trials else None

    def best_parameters(self, run: Storage) -> Parameters | None:
        """The parameters of the best trial."""
        return get_best(run) if self.config.trials else None

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training that every trial runs with other parameters."""
        beta = (
            self.config.space.beta.high
        )  # above 0: the teacher is loaded, because some trials need it
        changed = self.config.loop.model_dump(exclude_none=True)
        job = self.distil.job_with(self.training.parameters, rows, place)
        return replace(
            job,
            name=None,
            objective=Objective(beta=beta),
            loop=job.loop.model_copy(update=changed),
        )

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Run the search and store the best parameters for `Distil`."""
        if self.config.trials == 0:
            return {}
        require_rows(self, rows, train="to train on", validation="by which trials are compared")
        records = self._search(rows, place)
        chosen = best(records)
        if chosen is None:
            raise RunError(
                "every trial diverged: lower stages.search.space.learning_rate, or raise "
                "stages.distil.loop.warmup"
            )
        place.storage.write_bytes(TABLE, _table(records))
        place.storage.write_bytes(BEST_CONFIG, self._best_config(place.storage, chosen))
        put_best(place.storage, chosen.parameters)
        return _figures(records, chosen)

    def outcome(self, place: Workplace) -> Any:
        """The best parameters, because a second search may find others."""
        return get_best(place.storage).model_dump() if self.config.trials else None

    def _search(self, rows: StoredRows, place: Workplace) -> list[TrialRecord]:
        from ray_pipeline.tune.search import Study, search

        config = self.config
        job = self.job(rows, place)
        teacher = models.revision(get_model(place.storage, job.teacher_name))
        study = Study(
            job=job,
            space=config.space,
            first=self.training.parameters,
            seed=self.settings.seed,
            pruning=config.pruning,
            # Without the number of trials: raising it continues the existing search.
            identity=[self.version, config.loop.model_dump(), self.distil.identity(), teacher],
        )
        workers = config.trial_workers(self.name)
        trials = Trials(place.storage, TRIALS, study.digest)
        return search(study, config.trials, trials, workers, place.say)

    def _best_config(self, run: Storage, chosen: TrialRecord) -> bytes:
        """The run's configuration with the best parameters, and without the search."""
        config = yaml.safe_load(run.read_bytes("config.yaml") or b"")
        found = chosen.parameters.model_dump()
        distil = config["stages"][self.distil.name]
        distil["loop"]["learning_rate"] = found.pop("learning_rate")
        distil.update(found)
        config["stages"][self.name]["trials"] = 0
        about = (
            f"# With the parameters of trial {chosen.number}: validation loss {chosen.loss:.4f}.\n"
        )
        return (about + yaml.safe_dump(config, sort_keys=False)).encode()


def _with_models(settings: Settings, distil: Distil) -> Settings:
    """Settings that know a later stage's models: a run that ends before it has not looked them up.

    Raises:
        UserError: there is no such model.
    """
    resolved, revisions = dict(settings.models), dict(settings.revisions)
    for key, name in distil.models.items():
        if name not in resolved:
            try:
                resolved[name], revisions[name] = models.resolve(name), models.revision(name)
            except models.ModelError as error:
                raise UserError(f"stages.{distil.name}.{key}: {error}") from None
    return replace(settings, models=resolved, revisions=revisions)


def _table(records: Sequence[TrialRecord]) -> bytes:
    """All trials as CSV, best first."""
    text = io.StringIO()
    names = list(records[0].parameters.model_dump())
    writer = csv.writer(text)
    writer.writerow(["trial", "status", "validation_loss", *names, "steps", "seconds"])
    for one in sorted(records, key=lambda one: (one.score, one.number)):
        steps = one.losses[-1][0] if one.losses else 0
        values = one.parameters.model_dump().values()
        writer.writerow([one.number, one.status, one.loss, *values, steps, one.seconds])
    return text.getvalue().encode()


def _figures(records: Sequence[TrialRecord], chosen: TrialRecord) -> dict[str, Any]:
    first = next((one for one in records if one.number == 0), None)
    lowest, history = None, []
    for one in records:
        if one.loss is not None and (lowest is None or one.loss < lowest):
            lowest = one.loss
        history.append(
            {"trial": one.number, "status": one.status, "loss": one.loss, "lowest": lowest}
            | one.parameters.model_dump()
        )
    return {
        "best_trial": chosen.number,
        "best_parameters": chosen.parameters.model_dump(),
        "best_loss": chosen.loss,
        "configured_parameters": None if first is None else first.parameters.model_dump(),
        "configured_loss": None if first is None else first.loss,
        "trials": dict(sorted(Counter(one.status for one in records).items())),
        "seconds": round(sum(one.seconds for one in records), 3),
        "history": history,
    }
