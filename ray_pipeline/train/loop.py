"""The training loop, as it runs on each rank.

A step computes the loss of its rank's micro-batches, each divided by the answer tokens of the whole
step; gradients are summed over micro-batches and then over ranks. So loss and gradient are those of
the effective batch, however it was divided. How a rank holds the model, and how gradients are
summed, is up to its `replica.Replica`.

Everything that a step depends on besides weights and the optimizer's moments is a function of its
position: rows (`batches.BatchPlan`), learning rate, and the random numbers of dropout, which are
seeded for each step. So a checkpoint needs no state of a scheduler, sampler or generator to resume
with the exact next batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from ray_pipeline.core.config import AddedWith, Execution, Section
from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.shares import StepsOrShare
from ray_pipeline.models.device import Precision, autocast
from ray_pipeline.train.batches import Batch, BatchPlan, Position
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.train.held_out import answer_nats
from ray_pipeline.train.losses import Objective, TeacherSignal, answer_loss
from ray_pipeline.train.optimizers import OptimizerName, make_optimizer
from ray_pipeline.train.replica import Replica


class UpdateConfig(Section):
    """How each step changes the weights."""

    optimizer: Annotated[OptimizerName, AddedWith("adamw")] = Field(
        "adamw",
        description="adamw (decoupled weight decay), or sgd (momentum 0.9; weight_decay is an L2 "
        "penalty there)",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="shape of the learning rate after the warm-up"
    )
    warmup: StepsOrShare = Field(
        0.05, description='number of warm-up steps, or the share of all steps: "5%" or 0.05'
    )
    weight_decay: float = Field(
        0.01, ge=0, description="weight decay of matrices; biases and norms have none"
    )
    clip_norm: float | None = Field(
        1.0, gt=0, description="largest gradient norm of a step; null: gradients are not clipped"
    )
    precision: Precision = Field(
        "auto",
        description="precision of the forward pass; auto: bfloat16 on GPUs that support it, else "
        "float32; bfloat16_if_fast: also bfloat16 on CPUs with instructions for it (AVX-512 BF16, "
        "AMX), where it is twice as fast. On other CPUs bfloat16 is many times slower",
    )
    checkpoint_every: Annotated[int | None, Execution] = Field(
        None, ge=1, description="steps between checkpoints; null: a checkpoint at every evaluation"
    )


class LoopConfig(UpdateConfig):
    """How a model is trained. Defaults follow the original experiment."""

    learning_rate: float = Field(6.795e-5, gt=0, description="peak learning rate")
    epochs: int = Field(3, ge=1, description="passes over the training rows")
    max_steps: int | None = Field(
        None, ge=1, description="optimizer steps after which the training ends; null: no limit"
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between evaluations; null: once per epoch"
    )
    patience: int | None = Field(
        4,
        ge=1,
        description="evaluations without a lower validation loss after which the training stops; "
        "null: never",
    )
    seed: int = Field(
        0, description="added to the run's seed; of new weights, row order and dropout"
    )


@dataclass(frozen=True)
class World:
    """This process among those that train one model.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        all_reduce: sums a tensor over all ranks, in place; the result is bit-identical on every
            rank. Required where ``size`` is above 1.
    """

    rank: int = 0
    size: int = 1
    all_reduce: Callable[[torch.Tensor], Any] | None = None

    def __post_init__(self) -> None:
        """Check that several ranks can sum their gradients."""
        if self.size > 1 and self.all_reduce is None:
            raise ValueError("a world of several ranks needs all_reduce")

    @classmethod
    def of_process_group(cls) -> World:
        """The default process group of torch.distributed; one process where there is none."""
        dist = torch.distributed
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.all_reduce)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place."""
        if self.all_reduce is not None and self.size > 1:
            self.all_reduce(tensor)
        return tensor


class Teacher(Protocol):
    """`forward.OnlineTeacher` or `teacher_cache.CachedTeacher`."""

    def __call__(self, batch: Batch) -> TeacherSignal:
        """The teacher's distributions at a micro-batch's answer tokens, on the batch's device."""


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds besides weights and moments."""

    epoch: int = 0
    step_of_epoch: int = 0
    steps: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    #: Evaluations since the best one.
    worse: int = 0
    #: ``{"step": ..., "validation_loss": ...}`` of every evaluation.
    evaluations: list[dict[str, float]] = field(default_factory=list)

    @property
    def position(self) -> Position:
        """The next step."""
        return Position(self.epoch, self.step_of_epoch)


class Diverged(RunError):
    """A loss or a gradient is not finite: the training's parameters do not work."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended. The model has the weights that `Loop.keep` names."""

    stopped: Literal["epochs", "max_steps", "patience"]
    progress: Progress


def warmup_steps(config: UpdateConfig, total: int) -> int:
    """The steps of the warm-up of a training of ``total`` steps."""
    return round(config.warmup * total) if config.warmup < 1 else int(config.warmup)


def learning_rate(config: LoopConfig, step: int, total: int) -> float:
    """The learning rate of a step (from 0) of ``total``: linear warm-up, then the schedule to 0."""
    warmup = warmup_steps(config, total)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    left = max(0.0, 1 - (step - warmup) / max(1, total - warmup))
    shapes = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    return config.learning_rate * shapes[config.schedule]


def _ignore(figures: dict[str, Any]) -> None:
    """The default of `Loop.report`."""


def _nothing() -> None:
    """The default of `Loop.before_checkpoint`."""


@dataclass(eq=False)
class Loop:
    """Trains a model's parameters that require a gradient.

    Attributes:
        replica: how this rank holds the model: a causal language model of transformers or PEFT, on
            its device, with float32 or float64 parameters to train.
        plan: the rows to train on.
        objective: the loss.
        config: how to train.
        teacher: required where the objective has a KL term.
        validation: rows whose cross-entropy on answers is watched. (Not the objective, whose scale
            depends on α, β and T.)
        world: this process among the ranks.
        checkpoints: where to save and to resume from; rank 0 writes, all ranks read.
        report: called on every rank with the figures of each step and of each evaluation.
        before_checkpoint: called on rank 0 before a checkpoint is written: what was reported until
            then will not be reported again.
        keep: weights that `run` leaves in the model: those with the lowest validation loss, where
            there is validation, or the last ones.

    Raises:
        UserError: nothing is to be trained, parameters are in 16 bits, or the checkpoints are of
            another training.
    """

    replica: Replica
    plan: BatchPlan
    objective: Objective = field(default_factory=Objective)
    config: LoopConfig = field(default_factory=LoopConfig)
    _: KW_ONLY
    teacher: Teacher | None = None
    validation: BatchPlan | None = None
    world: World = World()
    checkpoints: Checkpoints | None = None
    report: Callable[[dict[str, Any]], None] = _ignore
    before_checkpoint: Callable[[], None] = _nothing
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        """Make the optimizer."""
        config = self.config
        self.progress = Progress()
        self.parameters = _trainable(self.model)
        self.device = self.parameters[0].device
        self.optimizer = make_optimizer(
            config.optimizer, self.parameters, config.learning_rate, config.weight_decay
        )
        self.total_steps = self.plan.total_steps(config.epochs)
        if config.max_steps is not None:
            self.total_steps = min(self.total_steps, config.max_steps)
        self._keeps_best = False
        self._best_weights: dict[str, torch.Tensor] | None = None

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self.replica.model

    def run(self) -> Outcome:
        """Train from the last checkpoint, or from the beginning, to the end.

        Raises:
            Diverged: a loss or a gradient is not a number.
        """
        self._keeps_best = self.checkpoints is None and self.keep == "best"
        for _ in self.evaluations():
            pass
        return self.end()

    def end(self) -> Outcome:
        """Give the model the weights that `keep` names, once the training is `finished`."""
        stopped = self.stopped
        assert stopped is not None
        if self.keep == "best":
            self._take_best()
        return Outcome(stopped, self.progress)

    def evaluations(self) -> Iterator[dict[str, float]]:
        """Train as `run` does, and pause at each evaluation; the model keeps its last weights.

        Yields:
            ``step`` and ``validation_loss`` of each evaluation. The caller may stop at any of them.

        Raises:
            Diverged: a loss or a gradient is not a number.
        """
        self._resume()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            while not self.finished:
                self._step()
                evaluate = self._evaluation_due()
                if evaluate:
                    self._evaluate()
                if self._checkpoint_due(evaluate):
                    self._save()
                if evaluate:
                    yield dict(self.progress.evaluations[-1])

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.stopped is not None

    def _step(self) -> None:
        """One update of the weights."""
        began = time.perf_counter()
        progress, position = self.progress, self.progress.position
        torch.manual_seed(_seed(self.config.seed, progress.steps, self.world.rank))
        self.model.train()
        rate = learning_rate(self.config, progress.steps, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = self._gradients(position)
        norm = self._clipped()
        loss, cross_entropy, kl = sums.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"step {progress.steps + 1}: loss {loss}, gradient norm {norm}. Lower "
                "learning_rate, or raise warmup; the last checkpoint is from before."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        following = self.plan.following(position)
        progress.steps += 1
        progress.epoch, progress.step_of_epoch = following.epoch, following.step
        tokens = self.plan.answer_tokens(position)
        self.report(
            {
                "step": progress.steps,
                "total_steps": self.total_steps,
                "epoch": position.epoch,
                "loss": loss,
                "cross_entropy": cross_entropy / max(tokens, 1),
                "kl": kl / max(tokens, 1),
                "gradient_norm": norm,
                "learning_rate": rate,
                "answer_tokens": tokens,
                "tokens": int(self.plan.rows.lengths[self.plan.step_rows(position)].sum()),
                "seconds": time.perf_counter() - began,
            }
        )

    def _gradients(self, position: Position) -> torch.Tensor:
        """Compute a step's gradients, into the parameters.

        Returns:
            The step's loss and its sums of cross-entropy and KL, over all ranks; float64 [3].
        """
        tokens = self.plan.answer_tokens(position)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        rank, size, in_step = self.world.rank, self.world.size, self.replica.in_step
        for batch in self.plan.batches(position, rank, size, fill=in_step):
            batch = batch.to(self.device)
            # A batch without answers only keeps ranks in step: the teacher has nothing on it.
            objective = self.objective if batch.predicted.any() else Objective()
            with autocast(self.config.precision, self.device):
                signal = self._signal(batch, objective)
                loss = partial(answer_loss, objective=objective, normaliser=tokens, teacher=signal)
                parts = self.replica.loss(batch, loss)
            parts.loss.backward()
            sums += torch.stack([parts.loss.detach(), parts.cross_entropy, parts.kl])
        for parameter in self.parameters:  # a rank may have had no rows
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if size > 1:
            self.replica.sum_gradients(self.world.sum)
        return self.world.sum(sums)

    def _clipped(self) -> float:
        """Clip the gradient; returns its norm before."""
        most = self.config.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, most)
        # The norm of sharded parameters is a DTensor itself.
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _signal(self, batch: Batch, objective: Objective) -> TeacherSignal | None:
        if objective.beta == 0 or self.teacher is None:
            return None
        return self.teacher(batch)

    def _evaluate(self) -> None:
        """Measure the validation loss and remember whether it is the best."""
        assert self.validation is not None
        progress = self.progress
        in_step = self.replica.in_step
        batches = self.validation.in_order(self.world.rank, self.world.size, fill=in_step)
        nats, tokens = answer_nats(
            self.replica, batches, self.device, self.config.precision, self.world.sum
        )
        loss = nats / max(tokens, 1)
        best = progress.best_loss is None or loss < progress.best_loss
        progress.worse = 0 if best else progress.worse + 1
        if best:
            progress.best_loss, progress.best_step = loss, progress.steps
            if self._keeps_best:
                self._best_weights = self.replica.weights(copy=True)
        figures = {"step": progress.steps, "validation_loss": loss}
        progress.evaluations.append(dict(figures))
        self.report({**figures, "best": best})

    @property
    def stopped(self) -> Literal["epochs", "max_steps", "patience"] | None:
        """Why there is nothing left to train; None: there is."""
        progress, config = self.progress, self.config
        if config.patience is not None and progress.worse >= config.patience:
            return "patience"
        if config.max_steps is not None and progress.steps >= config.max_steps:
            return "max_steps"
        return "epochs" if progress.epoch >= config.epochs else None

    def _evaluation_due(self) -> bool:
        if self.validation is None:
            return False
        every = self.config.evaluate_every
        at = self.progress.step_of_epoch == 0 if every is None else self.progress.steps % every == 0
        return at or self.stopped is not None

    def _checkpoint_due(self, evaluated: bool) -> bool:
        every, progress = self.config.checkpoint_every, self.progress
        if evaluated or self.stopped is not None:
            return True
        return progress.step_of_epoch == 0 if every is None else progress.steps % every == 0

    def _save(self) -> None:
        if self.checkpoints is None or (self.world.rank != 0 and not self.replica.in_step):
            return
        weights, moments = self.replica.weights(), self.replica.moments(self.optimizer)
        if self.world.rank != 0:
            return
        self.before_checkpoint()
        state = {
            "weights": weights,
            "optimizer": moments,
            "progress": asdict(self.progress),
            "identity": self._identity(),
        }
        best = self.progress.best_step if self.keep == "best" else None
        self.checkpoints.save(self.progress.steps, state, best)

    def _resume(self) -> None:
        state = None if self.checkpoints is None else self.checkpoints.latest()
        if state is None:
            return
        self._check_identity(state["identity"])
        self.replica.load(state["weights"])
        self.replica.load_moments(self.optimizer, state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resume, as plain data."""
        steps = self.plan.config.model_dump(include={"step_rows", "step_tokens", "window_steps"})
        moves = {"epochs", "max_steps", "patience", "evaluate_every", "checkpoint_every"}
        budget = self.plan.budget
        length = {} if budget is None else {"budget": [budget.tokens, budget.steps]}
        return {
            **length,
            "rows": self.plan.rows.digest,
            "order seed": self.plan.seed,
            "parameters": sum(p.numel() for p in self.parameters),
            **asdict(self.objective),
            **steps,
            **self.config.model_dump(exclude=moves),
        }

    def _check_identity(self, saved: dict[str, Any]) -> None:
        mine = self._identity()
        saved = {"optimizer": "adamw"} | saved  # checkpoints from before there was a choice
        changed = [f"{key} (was {saved.get(key)}, is {mine[key]})" for key in mine
                   if saved.get(key) != mine[key]]  # fmt: skip
        if changed:
            assert self.checkpoints is not None
            where = self.checkpoints.storage.uri(self.checkpoints.folder)
            raise UserError(
                f"{where} holds checkpoints of another training; changed: {', '.join(changed)}. "
                "Set these back to continue it, or train into another folder."
            )

    def _take_best(self) -> None:
        """Give the model the weights of the best evaluation."""
        best = self.progress.best_step
        if best is None or best == self.progress.steps:
            return
        weights = self._best_weights
        if self.checkpoints is not None:
            weights = self.checkpoints.load(best)["weights"]
        assert weights is not None
        self.replica.load(weights)


def _trainable(model: Any) -> list[torch.nn.Parameter]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("the model has no parameter to train: all are frozen")
    small = next((p.dtype for p in parameters if p.dtype.itemsize < 4), None)
    if small is not None:
        raise UserError(
            f"the parameters to train are in {small}, which loses small updates: load the model "
            "with dtype=torch.float32 (the forward pass may run in bfloat16 all the same)"
        )
    return parameters


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
