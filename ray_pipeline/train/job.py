"""One training of one model as data, which is pickled to wherever it runs.

Everything is read from the run directory and written to it, so that an attempt on another machine
resumes where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
import torch
from pydantic import Field, model_validator

from ray_pipeline.core.config import Section
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TextConfig
from ray_pipeline.models.tokenizer import load_tokenizer, tokenizer_hash, vocabulary_size
from ray_pipeline.rundir.layout import CACHE, SPLIT, TOKENS
from ray_pipeline.rundir.models import get_model
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.rundir.trainings import Curve
from ray_pipeline.rundir.unreadable import read_json
from ray_pipeline.train.adapters import AdapterConfig, quantisation, with_adapter
from ray_pipeline.train.batches import BatchConfig, BatchPlan, Budget, TokenRows
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.train.chosen_rows import LeftOut, token_rows
from ray_pipeline.train.forward import OnlineTeacher
from ray_pipeline.train.held_out import answer_nats, evaluating
from ray_pipeline.train.loop import Diverged, Loop, LoopConfig, Teacher, World
from ray_pipeline.train.losses import Objective, shared_vocabulary
from ray_pipeline.train.replica import Replica, Sharded, Whole
from ray_pipeline.train.scratch import ScratchConfig
from ray_pipeline.train.store import put_model
from ray_pipeline.train.student import (
    ModelKind,
    StudentConfig,
    load,
    logit_count,
    make_student,
    parameter_count,
)
from ray_pipeline.train.teacher_cache import CachedTeacher, CacheInfo, cache_table


class WorkersConfig(Section):
    """Processes that train one model."""

    number: int = Field(
        1,
        ge=1,
        description="number of worker processes; 1 without a GPU trains in the run's own process",
    )
    cpus: float = Field(1, gt=0, description="CPUs per worker, if there are several")
    gpu: bool | None = Field(
        None, description="give each worker one GPU; null: if this machine has one"
    )
    max_failures: int = Field(
        3, ge=0, description="number of lost workers after which the training fails"
    )
    sharded: bool = Field(
        False,
        description="shard the model over the workers (FSDP2), for a model that does not fit one "
        "GPU with its gradients and moments, 16 bytes per parameter",
    )

    @property
    def uses_gpu(self) -> bool:
        """Whether each worker gets a GPU."""
        return torch.cuda.is_available() if self.gpu is None else self.gpu

    @property
    def in_process(self) -> bool:
        """Whether the run's own process trains, without Ray Train."""
        return self.number == 1 and (not self.uses_gpu or torch.cuda.is_available())

    def resources(self) -> Resources:
        """What the processes need."""
        return Resources(self.number, self.cpus, int(self.uses_gpu))

    @model_validator(mode="after")
    def _sharded_among_several(self) -> WorkersConfig:
        if self.sharded and self.number == 1:
            raise ValueError("sharded divides the model among workers: set number to 2 or more")
        return self


@dataclass(frozen=True)
class ModelSource:
    """How the model that is trained is made.

    Attributes:
        base: folder or hub id; with ``of_run``, a model's name in the run.
        of_run: whether the run made the base.
        student: how the base is made smaller; None: it is trained as it is.
        student_base: what ``student.model`` resolved to.
        adapter: train an adapter and freeze the other weights; None: train all weights.
        scratch: an architecture with random weights; only the tokenizer of the base is used.
        gradient_checkpointing: recompute activations in the backward pass: less memory for about a
            third more work, and the same gradients.
        kind: what the model does with a row; the other ways to make one are for causal models.
    """

    base: str
    of_run: bool = False
    student: StudentConfig | None = None
    student_base: str | None = None
    adapter: AdapterConfig | None = None
    scratch: ScratchConfig | None = None
    gradient_checkpointing: bool = False
    kind: ModelKind = "causal"

    def folder(self, storage: Storage) -> str:
        """The base on this machine: a folder or hub id that transformers can load."""
        return get_model(storage, self.base) if self.of_run else self.base

    def build(self, storage: Storage, seed: int) -> Any:
        """The model, in float32.

        Raises:
            UserError: it cannot be made.
        """
        model = self._whole(self.folder(storage), seed)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model if self.adapter is None else with_adapter(model, self.adapter, seed)

    def _whole(self, folder: str, seed: int) -> Any:
        if self.scratch is not None:
            tokenizer = load_tokenizer(folder)
            return self.scratch.build(tokenizer, vocabulary_size(tokenizer), seed)
        model = load(folder, quantization=quantisation(self.adapter), kind=self.kind, seed=seed)
        if self.student is None:
            return model
        tokenizer = load_tokenizer(folder)
        return make_student(self.student, model, tokenizer, seed, self.student_base)

    def in_full(self) -> ModelSource:
        """The same source without quantisation: with the base's full-precision weights."""
        if self.adapter is None or not self.adapter.four_bit:
            return self
        return replace(self, adapter=self.adapter.model_copy(update={"four_bit": False}))


@dataclass(frozen=True)
class Pace:
    """The parts of a loop's configuration that depend on the rows, by way of the batch plan.

    Attributes:
        budget: the length of the training and of its steps in tokens, in place of epochs and of
            the sizes of steps.
        evaluations: how many there are, evenly spread, the last one at the end; None: as the
            configuration says.
        warmup_share: of all steps, that a warm-up configured in steps takes at most; None: it
            takes as many as it says.
    """

    budget: Budget | None = None
    evaluations: int | None = None
    warmup_share: float | None = None

    def of(self, config: LoopConfig, plan: BatchPlan) -> LoopConfig:
        """The configuration for the rows of a plan, whose schedule ends with the last step."""
        if self.budget is not None:
            config = config.model_copy(update={"epochs": 1})
        total = plan.total_steps(config.epochs)
        return self.within(
            config, total if config.max_steps is None else min(total, config.max_steps)
        )

    def within(self, config: LoopConfig, total: int) -> LoopConfig:
        """The configuration of a training of a number of steps."""
        changed: dict[str, float] = {}
        if self.evaluations is not None:
            changed["evaluate_every"] = -(-total // self.evaluations)
        if self.warmup_share is not None and config.warmup >= 1:
            changed["warmup"] = min(config.warmup, float(int(self.warmup_share * total)))
        return config.model_copy(update=changed)


@dataclass(frozen=True)
class TrainingJob:
    """A training of one model.

    Attributes:
        rows: token rows of the run, with `SPLIT`; a cached teacher's columns too, where used.
        storage: the run directory; all that is written goes there.
        folder: of the training's checkpoints and curve.
        model: what is trained.
        name: under which the run keeps the trained model; None: it is not kept.
        objective: the loss.
        teacher: what gives the KL term its distributions.
        teacher_name: the teacher's name in the run.
        text: format of the prompts, kept with the model; None: it has none.
        subset: train on the training rows of this subset alone (see `SUBSETS`); validation and
            test rows are everybody's.
        left_out: training rows that are left out; None: none.
        pace: what of the loop's configuration depends on the rows.
        keep: the weights with the lowest validation loss, or the last ones.
        test: measure these weights on the test rows.
        measure: gives further figures of the model and its tokenizer for the curve, at each
            evaluation and before the first step (``step`` 0). It is called on one rank.
    """

    rows: StoredRows
    storage: Storage
    folder: str
    model: ModelSource
    name: str | None
    text: TextConfig | None
    objective: Objective = field(default_factory=Objective)
    loop: LoopConfig = field(default_factory=LoopConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    teacher: Literal["cached", "online"] | None = None
    teacher_name: str = "teacher"
    subset: str | None = None
    left_out: LeftOut | None = None
    pace: Pace = field(default_factory=Pace)
    keep: Literal["best", "last"] = "best"
    test: bool = False
    measure: Callable[[Any, Any], dict[str, Any]] | None = None

    @property
    def curve(self) -> str:
        """The learning curve's file."""
        return f"{self.folder}/curve.jsonl"

    @property
    def result(self) -> str:
        """The file that says how it ended; there when the model is."""
        return f"{self.folder}/result.json"

    def finished(self) -> dict[str, Any] | None:
        """The result of a training that ended; None also where the file cannot be read."""
        result = read_json(self.storage, self.result)
        return result if isinstance(result, dict) else None


def train(
    job: TrainingJob,
    world: World,
    device: str,
    report: Callable[[dict[str, Any]], None],
    sharded: bool = False,
) -> None:
    """Train on this rank, from the last checkpoint; rank 0 keeps curve, model and result.

    Args:
        job: what to train.
        world: this process among the ranks.
        device: as torch names it.
        report: called on every rank with the figures of each step and evaluation.
        sharded: each rank holds a shard of the model.
    """
    for _ in Training(job, world, device, report, sharded).evaluations():
        pass


class Training:
    """A training on this rank that pauses at each evaluation; arguments as of `train`."""

    def __init__(
        self,
        job: TrainingJob,
        world: World,
        device: str,
        report: Callable[[dict[str, Any]], None],
        sharded: bool = False,
    ) -> None:
        self._job, self._world, self._device, self._report = job, world, device, report
        self._curve = Curve(job.storage, job.curve)
        # Before the model, because it is small: a bad folder fails here already.
        self._tokenizer = load_tokenizer(job.model.folder(job.storage))
        self.loop = make_loop(job, world, device, self._record, self._curve.save, sharded)

    def evaluations(self) -> Iterator[dict[str, float]]:
        """Train to the end; write the model and the result.

        Yields:
            ``step`` and ``validation_loss`` of each evaluation.

        Raises:
            Diverged: a loss or a gradient is not finite. The curve until then is on storage.
        """
        try:
            self._measure_before()
            yield from self.loop.evaluations()
        except Diverged:
            if self._world.rank == 0:
                self._curve.save()
            raise
        self._end()

    def _measure_before(self) -> None:
        """The baseline: validation loss and further figures of the model that is not trained yet.

        It is not a candidate for the best weights.
        """
        loop, world, validation = self.loop, self._world, self.loop.validation
        if self._job.measure is None or validation is None or self._curve.begins_at(0):
            return
        batches = validation.in_order(world.rank, world.size, fill=loop.replica.in_step)
        precision = loop.config.precision
        nats, tokens = answer_nats(loop.replica, batches, self._device, precision, world.sum)
        self._record({"step": 0, "validation_loss": nats / max(tokens, 1), "best": False})

    def _record(self, figures: dict[str, Any]) -> None:
        if self._world.rank == 0:
            if self._job.measure is not None and "validation_loss" in figures:
                with evaluating(self.loop.model):
                    figures = figures | self._job.measure(self.loop.model, self._tokenizer)
            self._curve.add(figures)
        self._report(figures)

    def _end(self) -> None:
        job, world, loop = self._job, self._world, self.loop
        loop.end()
        # A barrier: after this sum every rank has read its weights from storage.
        world.sum(torch.zeros(1, device=self._device))
        tested = self._tested() if job.test else {}
        model = None if job.name is None else _trained_model(job, loop)
        if world.rank != 0:
            return
        self._curve.save()
        figures = _figures(loop) | {"training_loss": self._curve.last_epoch()}
        if job.name is not None:
            put_model(job.storage, job.name, model, self._tokenizer, job.text)
        job.storage.write_bytes(job.result, orjson.dumps(figures | tested))
        # Each has three times the model's size, and nothing resumes from them any more.
        job.storage.delete_folder(checkpoints_folder(job))

    def _tested(self) -> dict[str, Any]:
        """Loss of the model's weights on the test rows."""
        job, world, loop = self._job, self._world, self.loop
        plan = BatchPlan(token_rows(job.rows, "test"), job.batches)
        batches = plan.in_order(world.rank, world.size, fill=loop.replica.in_step)
        precision = loop.config.precision
        nats, tokens = answer_nats(loop.replica, batches, self._device, precision, world.sum)
        return {"test_loss": nats / max(tokens, 1), "test_tokens": tokens}


def _trained_model(job: TrainingJob, loop: Loop) -> Any:
    """The model as it is saved, on rank 0. Called on all ranks."""

    def build() -> Any:
        return job.model.build(job.storage, job.loop.seed)

    model = loop.replica.whole(build)
    in_full = job.model.in_full()
    if model is None or in_full == job.model:
        return model
    # Merge the adapter into full-precision weights: rounding to 4 bits would lose it.
    merged = in_full.build(job.storage, job.loop.seed)
    merged.load_state_dict(loop.replica.weights(), strict=False)
    return merged


def checkpoints_folder(job: TrainingJob) -> str:
    """The folder of a training's checkpoints."""
    return f"{job.folder}/checkpoints"


@dataclass(frozen=True)
class Bench:
    """A training's rows, model and teacher, loaded. Several trainings may share them in turn."""

    plan: BatchPlan
    validation: BatchPlan | None
    replica: Replica
    teacher: Teacher | None

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self.replica.model

    @classmethod
    def load(cls, job: TrainingJob, device: str, sharded: bool = False) -> Bench:
        """A job's rows, model and teacher."""
        rows = token_rows(job.rows, "train", job.subset, job.left_out)
        model = job.model.build(job.storage, job.loop.seed)
        teacher = None if job.objective.beta == 0 else _teacher(job, rows, model, device)
        plan = BatchPlan(rows, job.batches, job.loop.seed, job.pace.budget)
        replica = Sharded(model, device) if sharded else Whole(model.to(device))
        return cls(plan, _validation(job), replica, teacher)

    def loop(self, objective: Objective, config: LoopConfig, **more: Any) -> Loop:
        """Train the model from its current weights; ``more``: further arguments of `Loop`."""
        teacher, validation = self.teacher, self.validation
        more |= {"teacher": teacher, "validation": validation}
        return Loop(self.replica, self.plan, objective, config, **more)


def make_loop(
    job: TrainingJob,
    world: World,
    device: str,
    report: Callable[[dict[str, Any]], None],
    before_checkpoint: Callable[[], None] | None = None,
    sharded: bool = False,
) -> Loop:
    """The training loop of a job, with its rows, model and teacher loaded."""
    bench = Bench.load(job, device, sharded)
    return bench.loop(
        job.objective,
        job.pace.of(job.loop, bench.plan),
        keep=job.keep,
        world=world,
        checkpoints=Checkpoints(job.storage, checkpoints_folder(job)),
        report=report,
        before_checkpoint=before_checkpoint,
    )


def _validation(job: TrainingJob) -> BatchPlan | None:
    table = job.rows.originals(TOKENS, **{SPLIT: "validation"})
    return BatchPlan(TokenRows(table), job.batches) if table.num_rows else None


def _teacher(job: TrainingJob, rows: TokenRows, student: Any, device: str) -> Teacher | None:
    if job.teacher is None:
        return None
    if job.teacher == "cached":
        table, info = cache_table(job.rows.mapped(CACHE, **{SPLIT: "train"}))
        shared_vocabulary(logit_count(student), info.vocabulary, info.vocabulary)
        return CachedTeacher(table, rows, _needed(job, info))
    folder = get_model(job.storage, job.teacher_name)
    tokens = vocabulary_size(load_tokenizer(folder))
    teacher = load(folder).to(device)
    shared = shared_vocabulary(logit_count(student), logit_count(teacher), tokens)
    return OnlineTeacher(teacher, shared)


def _needed(job: TrainingJob, stored: CacheInfo) -> CacheInfo:
    """What the cache of a training has to be of: the tokens of the model that is trained.

    Which teacher it is of is not compared: the stage that computed it is made again with another
    teacher, and a table of several is refused.
    """
    tokenizer = load_tokenizer(job.model.folder(job.storage))
    return replace(
        stored, vocabulary=vocabulary_size(tokenizer), tokenizer=tokenizer_hash(tokenizer)
    )


def _figures(loop: Loop) -> dict[str, Any]:
    progress, rows = loop.progress, loop.plan.rows
    return {
        "stopped": loop.stopped,
        "steps": progress.steps,
        "epochs": progress.epoch,
        "best_step": progress.best_step,
        "validation_loss": progress.best_loss,
        "rows": len(rows),
        "tokens": int(rows.lengths.sum()),
        "answer_tokens": int(rows.answer_tokens.sum()),
        "real_token_share": round(loop.plan.real_share(), 4),
        "parameters": parameter_count(loop.model),
    }
