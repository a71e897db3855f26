"""Hyper-parameter search for the distillation, and for its control with the same effort."""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
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
from ray_pipeline.stage import Settings, Stage, StageConfig, Workplace
from ray_pipeline.stages.training.base import TrainingStage
from ray_pipeline.stages.training.distil import (
    ControlSearch,
    Distil,
    ParameterSearch,
    TrainAlone,
)
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.stages.training.split import SplitStage
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.stages.training.trial_workers import TrialWorkersConfig
from ray_pipeline.train.job import TrainingJob
from ray_pipeline.train.losses import Objective
from ray_pipeline.tune.trials import (
    Parameters,
    PruningConfig,
    Range,
    Space,
    TrialRecord,
    Trials,
    best,
    get_best,
    put_best,
)


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


class SearchConfig(TrialWorkersConfig):
    """Configuration of `Search`, which `SearchAlone` follows."""

    trials: int = Field(0, ge=0, description="number of trials; 0: no search")
    space: Space = Space()
    loop: TrialLoopConfig = TrialLoopConfig()
    pruning: PruningConfig | None = Field(
        PruningConfig(),
        description="successive halving, which stops trials that perform poorly; null: every "
        "trial is trained to its end",
    )


class SearchStage(TrainingStage):
    """Base of the searches: trials on Ray Tune, and files with what they found.

    In the folder of the run that is named like the stage: every trial as it finished
    (``trials.jsonl``), the same as a table (``trials.csv``), the best parameters (``best.json``),
    and the run's configuration with them in it (``best.yaml``).
    """

    uses_seed = True

    @property
    @abstractmethod
    def effort(self) -> SearchConfig:
        """The number of trials, and how each is run."""

    @property
    @abstractmethod
    def space(self) -> Space:
        """The ranges of the parameters."""

    @property
    @abstractmethod
    def first(self) -> Parameters:
        """The configured parameters, which are tried first."""

    @abstractmethod
    def trial_job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training that every trial runs with other parameters."""

    @abstractmethod
    def put_into(self, stages: dict[str, Any], found: Parameters, run: Storage) -> None:
        """Put the best parameters into the ``stages`` of a run's configuration."""

    def path(self, file: str) -> str:
        """A file of the search, relative to the run directory."""
        return f"{self.name}/{file}"

    @property
    def makes(self) -> Sequence[str]:
        """The best parameters, a configuration with them, and the table of all trials."""
        files = ("best.json", "best.yaml", "trials.csv") if self.effort.trials else ()
        return tuple(self.path(file) for file in files)

    @cached_property
    def distil(self) -> Distil:
        """The stage whose student is trained."""
        distil = self.stage_of(Distil)
        return distil.bound(distil.config, _with_models(self.settings, distil))

    @property
    def training(self) -> Distil.Config:
        """The training configuration of `Distil`."""
        return self.distil.config

    def resources(self) -> Resources | None:
        """The resources of one trial; more trials run at the same time if they fit."""
        return self.effort.resources() if self.effort.trials else None

    def best_parameters(self, run: Storage) -> Parameters | None:
        """The parameters of the best trial."""
        return get_best(run, self.path("best.json")) if self.effort.trials else None

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training that every trial runs, with the loop of trials."""
        changed = self.effort.loop.model_dump(exclude_none=True)
        job = self.trial_job(rows, place)
        return replace(job, name=None, loop=job.loop.model_copy(update=changed))

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Run the search and store the best parameters."""
        if self.effort.trials == 0:
            return {}
        require_rows(self, rows, train="to train on", validation="by which trials are compared")
        records = self._search(rows, place)
        chosen = best(records)
        if chosen is None:
            raise RunError(
                "every trial diverged: lower stages.search.space.learning_rate, or raise "
                "stages.distil.loop.warmup"
            )
        names = self.space.searched
        place.storage.write_bytes(self.path("trials.csv"), _table(records, names))
        place.storage.write_bytes(self.path("best.yaml"), self._best_config(place.storage, chosen))
        put_best(place.storage, chosen.parameters, self.path("best.json"))
        return _figures(records, chosen, names)

    def outcome(self, place: Workplace) -> Any:
        """The best parameters, because a second search may find others."""
        found = self.best_parameters(place.storage)
        return None if found is None else found.model_dump()

    def _search(self, rows: StoredRows, place: Workplace) -> list[TrialRecord]:
        from ray_pipeline.tune.search import Study, search

        effort, job = self.effort, self.job(rows, place)
        teacher = models.revision(get_model(place.storage, job.teacher_name))
        study = Study(
            job=job,
            space=self.space,
            first=self.first,
            seed=self.settings.seed,
            pruning=effort.pruning,
            # Without the number of trials: raising it continues the existing search.
            identity=[self.version, effort.loop.model_dump(), _of_trials(self.distil), teacher],
        )
        workers = effort.trial_workers(self.name)
        trials = Trials(place.storage, self.path("trials.jsonl"), study.digest)
        return search(study, effort.trials, trials, workers, place.say)

    def _best_config(self, run: Storage, chosen: TrialRecord) -> bytes:
        """The run's configuration with the best parameters, and without the search."""
        config = yaml.safe_load(run.read_bytes("config.yaml") or b"")
        self.put_into(config["stages"], chosen.parameters, run)
        about = (
            f"# With the parameters of trial {chosen.number}: validation loss {chosen.loss:.4f}.\n"
        )
        return (about + yaml.safe_dump(config, sort_keys=False)).encode()


class Search(SearchStage, ParameterSearch):
    """Searches for better α, β, temperature and learning rate than those of ``stages.distil``.

    It comes before `Distil`, which then uses the best ones. Trials train the student of `Distil`
    on its rows and with its teacher, and are compared by the cross-entropy of the validation rows.
    """

    name = "search"
    Config = SearchConfig
    config: SearchConfig

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stages that `Distil` needs, because trials are trainings of `Distil`."""
        return self.stage_of(Distil).needs_stages if self.config.trials else ()

    @property
    def effort(self) -> SearchConfig:
        """Its configuration."""
        return self.config

    @property
    def space(self) -> Space:
        """The configured ranges."""
        return self.config.space

    @property
    def first(self) -> Parameters:
        """The parameters of ``stages.distil``."""
        return self.training.parameters

    def identity(self) -> dict[str, Any]:
        """Its own identity and that of `Distil`, which comes later in the job."""
        if self.config.trials == 0:
            return {"config": {"trials": 0}}
        return {**super().identity(), "distil": _of_trials(self.distil)}

    def check(self) -> None:
        """Check that the configured parameters, which are tried first, are in the search space."""
        if self.config.trials == 0:
            return
        self.distil.check()
        for name in self.space.outside(self.first):
            where = f"loop.{name}" if name == "learning_rate" else name
            raise _outside(f"stages.distil.{where}", name, self.first, self.space)
        split = self.find_stage(SplitStage)
        if split is not None and split.config.validation == 0:
            raise UserError(
                f"trials are compared by their validation loss, and stages.{split.name}.validation "
                "is 0"
            )

    def trial_job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training of the student with its teacher."""
        job = self.distil.job_with(self.first, rows, place)
        # Above 0: the teacher is loaded, because some trials need it.
        return replace(job, objective=Objective(beta=self.space.beta.high))

    def put_into(self, stages: dict[str, Any], found: Parameters, run: Storage) -> None:
        """α, β, temperature and learning rate of ``stages.distil``."""
        values = found.model_dump()
        distil = stages[self.distil.name]
        distil["loop"]["learning_rate"] = values.pop("learning_rate")
        distil.update(values)
        stages[self.name]["trials"] = 0


class SearchAlone(SearchStage, ControlSearch):
    """Searches for the learning rate of `TrainAlone`, with the trials of `Search`.

    It comes before `TrainAlone`, which then uses the best one. Number, steps and pruning of the
    trials, the range of the learning rate, seed and validation rows are those of `Search`: the
    control is tuned with the effort that the distilled student got, and for one parameter instead
    of four.
    """

    name = "search-alone"
    Config = StageConfig

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stage that tokenises the rows, and the ones whose trials and student it takes."""
        return (Tokenise, Search, Distil)

    @property
    def effort(self) -> SearchConfig:
        """The configuration of `Search`."""
        return self.stage_of(Search).config

    @property
    def alone(self) -> TrainAlone:
        """The stage whose learning rate is optimised."""
        alone = self.stage_of(TrainAlone)
        return alone.bound(alone.config, _with_models(self.settings, self.stage_of(Distil)))

    @property
    def space(self) -> Space:
        """The range of the learning rate; the rest is fixed at cross-entropy alone."""
        one, none = Range(low=1, high=1), Range(low=0, high=0)
        rates = self.effort.space.learning_rate
        return Space(alpha=one, beta=none, temperature=one, learning_rate=rates)

    @property
    def first(self) -> Parameters:
        """The learning rate of ``stages.train-alone``."""
        return self.alone.parameters

    def identity(self) -> dict[str, Any]:
        """That of `TrainAlone`, which comes later in the job."""
        if self.effort.trials == 0:
            return {"config": {"trials": 0}}
        return {**super().identity(), "alone": self.alone.config.identity()}

    def check(self) -> None:
        """Check that the configured learning rate, which is tried first, is in its range."""
        if self.effort.trials and self.space.outside(self.first):
            where = f"stages.{self.alone.name}.learning_rate"
            raise _outside(where, "learning_rate", self.first, self.space)

    def trial_job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training of the student without a teacher."""
        return self.alone.job_with(self.first, rows, place)

    def put_into(self, stages: dict[str, Any], found: Parameters, run: Storage) -> None:
        """The learning rate of ``stages.train-alone``, and what the other search found."""
        search = self.stage_of(Search)
        if (others := search.best_parameters(run)) is not None:
            search.put_into(stages, others, run)
        stages[self.alone.name]["learning_rate"] = found.learning_rate


def _of_trials(distil: Distil) -> dict[str, Any]:
    """The identity of a distillation, without the number of its seeds: trials have one."""
    identity = distil.identity()
    config = {k: v for k, v in identity["config"].items() if k not in ("seeds", "leave_out")}
    return {**identity, "config": config}


def _outside(where: str, name: str, parameters: Parameters, space: Space) -> UserError:
    return UserError(
        f"{where} is {getattr(parameters, name):g}, outside of space.{name}, "
        f"{getattr(space, name)}: it is what is tried first, so widen the range"
    )


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


def _table(records: Sequence[TrialRecord], names: Sequence[str]) -> bytes:
    """All trials as CSV with the parameters that vary, best first."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", "status", "validation_loss", *names, "steps", "seconds"])
    for one in sorted(records, key=lambda one: (one.score, one.number)):
        steps = one.losses[-1][0] if one.losses else 0
        values = [getattr(one.parameters, name) for name in names]
        writer.writerow([one.number, one.status, one.loss, *values, steps, one.seconds])
    return text.getvalue().encode()


def _figures(
    records: Sequence[TrialRecord], chosen: TrialRecord, names: Sequence[str]
) -> dict[str, Any]:
    def values(record: TrialRecord) -> dict[str, float]:
        return {name: getattr(record.parameters, name) for name in names}

    first = next((one for one in records if one.number == 0), None)
    lowest, history = None, []
    for one in records:
        if one.loss is not None and (lowest is None or one.loss < lowest):
            lowest = one.loss
        history.append(
            {
                "trial": one.number,
                "status": one.status,
                "loss": one.loss,
                "lowest": lowest,
                **values(one),
            }
        )
    return {
        "best_trial": chosen.number,
        "best_parameters": values(chosen),
        "best_loss": chosen.loss,
        "configured_parameters": None if first is None else values(first),
        "configured_loss": None if first is None else first.loss,
        "trials": dict(sorted(Counter(one.status for one in records).items())),
        "seconds": round(sum(one.seconds for one in records), 3),
        "history": history,
    }
