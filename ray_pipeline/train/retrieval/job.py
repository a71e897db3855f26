"""A fine-tuning of a sentence-embedding model: as data, its loop on each rank, and its result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import torch
from pydantic import Field
from torch import Tensor

from ray_pipeline.core.config import Section
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.hub import at_commit
from ray_pipeline.rundir.unreadable import read_json
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.train.loop import World
from ray_pipeline.train.retrieval.losses import LossConfig, batch_loss
from ray_pipeline.train.retrieval.pairs import PairBatch, TrainingPairs, pair_batch
from ray_pipeline.train.store import put_sentence_model

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]


class Validate(Protocol):
    """Says how good a model is after an epoch; the higher, the better. It is pickled."""

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Figures by name. The first one decides which epoch is kept.

        Args:
            encode: unit vectors of texts, float32 [texts, dimensions].
        """


class TuningConfig(Section):
    """How an embedding model is fine-tuned."""

    epochs: int = Field(3, ge=1, description="passes over the training pairs")
    batch_pairs: int = Field(
        64, ge=2, description="pairs of one optimizer step, over all workers together"
    )
    mini_batch_texts: int | None = Field(
        None,
        ge=1,
        description="texts that are encoded at a time within a step, for batches that do not fit "
        "into memory: the gradient is the same, for twice the forward passes (GradCache); null: "
        "all at once",
    )
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm of a step")
    patience: int | None = Field(
        2,
        ge=1,
        description="epochs without a better validation figure after which the training stops; "
        "null: never",
    )
    loss: LossConfig = LossConfig()


@dataclass(frozen=True)
class RetrieverJob:
    """A fine-tuning of one model.

    Attributes:
        data: what is trained on.
        base: folder or hub id of the model.
        storage: the run directory.
        folder: of the training's checkpoints and result.
        name: under which the run keeps the model.
        card: text of the model's README.md; ``{result}`` in it becomes the result.
        config: the training.
        validate: called after each epoch; the first call is before training.
        seed: of the order of pairs, and of dropout.
        max_tokens: of a text; None: the model's own limit.
    """

    data: TrainingPairs
    base: str
    storage: Storage
    folder: str
    name: str
    card: str
    config: TuningConfig
    validate: Validate
    seed: int = 0
    max_tokens: int | None = None

    @property
    def result(self) -> str:
        """The file that says how it ended; there when the model is."""
        return f"{self.folder}/result.json"

    def finished(self) -> dict[str, Any] | None:
        """The result of a training that ended; None also where the file cannot be read."""
        result = read_json(self.storage, self.result)
        return result if isinstance(result, dict) else None


@dataclass
class _Progress:
    """What a checkpoint holds besides weights and moments."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    pairs_seen: int = 0


def train_retriever(
    job: RetrieverJob, world: World, device: str, report: Callable[[str], None]
) -> None:
    """Train on this rank, from the last finished epoch; rank 0 keeps the model and the result.

    Args:
        job: what to train.
        world: this process among the ranks.
        device: as torch names it.
        report: called on rank 0 with lines on the progress.

    Raises:
        RunError: a loss is not finite.
    """
    model = _load(job, device)
    tuning = Tuning(job, model, world, device)
    checkpoints = Checkpoints(job.storage, f"{job.folder}/checkpoints", keep=1)
    progress = tuning.resume(checkpoints)
    if not progress.history:
        tuning.evaluate(progress, report, 0.0)
        tuning.save(checkpoints, progress)
    while progress.epoch < job.config.epochs and not _is_stopped(job.config, progress):
        loss = tuning.epoch(progress.epoch)
        progress.epoch += 1
        progress.pairs_seen += len(job.data.pairs)
        tuning.evaluate(progress, report, loss)
        tuning.save(checkpoints, progress)
    if world.rank == 0:
        state = checkpoints.load(progress.best_epoch)
        model.load_state_dict(state["model"])
        result = _result(job, progress)
        figures = {**result, "validation": result["history"][result["best_epoch"]]}
        text = "\n".join(f"- {n}: {value}" for n, value in figures.items() if n != "history")
        put_sentence_model(job.storage, job.name, model, job.card.replace("{result}", text))
        job.storage.write_bytes(job.result, orjson.dumps(result))
        job.storage.delete_folder(f"{job.folder}/checkpoints")
    # Nobody leaves before the model is there.
    world.sum(torch.zeros(1, device=device))


def _load(job: RetrieverJob, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(job.seed)
    name, commit = at_commit(job.base)
    model: Any = SentenceTransformer(name, device=device, **commit)
    model.tokenizer.split_special_tokens = True
    if job.max_tokens is not None:
        model.max_seq_length = job.max_tokens
    return model


def _is_stopped(config: TuningConfig, progress: _Progress) -> bool:
    waited = progress.epoch - progress.best_epoch
    return config.patience is not None and waited >= config.patience


def _result(job: RetrieverJob, progress: _Progress) -> dict[str, Any]:
    return {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "stopped": "patience" if progress.epoch < job.config.epochs else "epochs",
        "steps": progress.epoch * job.data.steps(job.config.batch_pairs),
        "pairs": len(job.data.pairs),
        "pairs_seen": progress.pairs_seen,
        "history": progress.history,
    }


class Tuning:
    """The loop of a fine-tuning on one rank."""

    def __init__(self, job: RetrieverJob, model: Any, world: World, device: str) -> None:
        self._job, self._model, self._world, self._device = job, model, world, device
        config = job.config
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._steps = config.epochs * job.data.steps(config.batch_pairs)
        #: Numbers of the pairs that this rank has encoded, in order.
        self.encoded: list[int] = []

    def resume(self, checkpoints: Checkpoints) -> _Progress:
        """Load the newest checkpoint, if there is one."""
        state = checkpoints.latest()
        if state is None:
            return _Progress()
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        return _Progress(**state["progress"])

    def save(self, checkpoints: Checkpoints, progress: _Progress) -> None:
        """Write the state after an epoch; the best epoch's is kept with the newest."""
        if self._world.rank == 0:
            state = {
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "progress": dict(progress.__dict__),
            }
            checkpoints.save(progress.epoch, state, progress.best_epoch)

    def evaluate(self, progress: _Progress, report: Callable[[str], None], loss: float) -> None:
        """Validate on rank 0, and let all ranks know which epoch is the best."""
        better = torch.zeros(1, device=self._device)
        if self._world.rank == 0:
            start = time.perf_counter()
            figures = self._job.validate(self._encode)
            value = next(iter(figures.values()))
            better += float(value > progress.best)
            progress.best = max(progress.best, value)
            progress.history.append({"epoch": progress.epoch, "loss": loss, **figures})
            words = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            spent = time.perf_counter() - start
            report(f"  epoch {progress.epoch}: loss {loss:.4f}, {words} ({spent:.0f} s)")
        if float(self._world.sum(better)) > 0:
            progress.best_epoch = progress.epoch

    def epoch(self, epoch: int) -> float:
        """Train on every pair once; returns the mean loss of the steps."""
        config = self._job.config
        self._model.train()
        losses = []
        first = epoch * self._job.data.steps(config.batch_pairs)
        for step, numbers in enumerate(self._batches(epoch), first):
            for group in self._optimizer.param_groups:
                group["lr"] = config.learning_rate * self._share(step)
            losses.append(self.step(numbers, step))
        return float(np.mean(losses))

    def _batches(self, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
        return self._job.data.batches(self._job.config.batch_pairs, epoch, self._job.seed)

    def _share(self, step: int) -> float:
        """Linear warm-up, then linear decay to 0."""
        warm = int(self._job.config.warmup * self._steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        return (self._steps - step) / max(self._steps - warm, 1)

    def step(self, numbers: npt.NDArray[np.int64], step: int) -> float:
        """One update on the pairs of all ranks; returns its loss, the same on every rank."""
        loss = self.gradients(numbers, step)
        if not math.isfinite(loss):
            raise RunError(f"the training diverged: the loss of step {step} is {loss}")
        torch.nn.utils.clip_grad_norm_(self._parameters, self._job.config.clip_norm)
        self._optimizer.step()
        return loss

    def gradients(self, numbers: npt.NDArray[np.int64], step: int) -> float:
        """Set the gradients of the loss of a whole batch, whatever share of it is encoded here."""
        self._optimizer.zero_grad()
        batch = pair_batch(self._job.data, numbers)
        rank, size = self._world.rank, self._world.size
        torch.manual_seed(hash((self._job.seed, step, rank)) % 2**63)
        self.encoded.extend(numbers[rank::size].tolist())
        sides = [_Side(self, texts) for texts in (batch.queries, batch.contexts)]
        whole = [side.embeddings() for side in sides]
        loss = batch_loss(whole[0], whole[1], _moved(batch, self._device), self._job.config.loss)
        loss.backward()
        for side in sides:
            side.backward()
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self._world.sum(parameter.grad)
        return float(loss.detach())

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts with their graph; float [texts, dimensions]."""
        features = self._model.preprocess(list(texts))
        moved = {
            name: value.to(self._device) if isinstance(value, Tensor) else value
            for name, value in features.items()
        }
        found: Tensor = self._model(moved)["sentence_embedding"]
        return found.float()

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        encoded: npt.NDArray[np.float32] = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return encoded

    @property
    def world(self) -> World:
        """This process among the ranks."""
        return self._world

    @property
    def device(self) -> str:
        """Where the model is."""
        return self._device

    @property
    def mini_batch(self) -> int | None:
        """Texts that are encoded at a time."""
        return self._job.config.mini_batch_texts

    @property
    def dimensions(self) -> int:
        """Of a vector."""
        return int(self._model.get_embedding_dimension())


class _Side:
    """The queries or the contexts of a batch: this rank encodes every n-th text of them.

    The other ranks' embeddings are constants here. Summed over ranks, the gradients of the weights
    are those of the whole batch.
    """

    def __init__(self, tuning: Tuning, texts: Sequence[str]) -> None:
        self._tuning, self._number = tuning, len(texts)
        self._places = list(range(tuning.world.rank, len(texts), tuning.world.size))
        own = [texts[place] for place in self._places]
        size = tuning.mini_batch or max(len(own), 1)
        self._parts = [own[first : first + size] for first in range(0, len(own), size)]
        self._is_cached = len(self._parts) > 1
        self._states: list[list[Tensor]] = []
        self._own: Tensor | None = None

    def embeddings(self) -> Tensor:
        """Embeddings of all texts; float [texts, dimensions]."""
        tuning = self._tuning
        whole = torch.zeros(self._number, tuning.dimensions, device=tuning.device)
        if self._parts:
            made = []
            for part in self._parts:
                self._states.append(_random_state(tuning.device))
                with torch.set_grad_enabled(not self._is_cached):
                    made.append(tuning.forward(part))
            self._own = torch.cat(made)
            if self._is_cached:
                self._own.requires_grad_()
        places = torch.tensor(self._places, dtype=torch.int64, device=tuning.device)
        if tuning.world.size > 1:
            if self._own is not None:
                whole[places] = self._own.detach()
            tuning.world.sum(whole)
        if self._own is None:
            # Nothing was encoded here; the loss still needs something to run backward to.
            return whole.requires_grad_()
        return whole.index_copy(0, places, self._own)

    def backward(self) -> None:
        """Where the graph was not kept: encode again, with the same dropout, and run backward."""
        if not self._is_cached or self._own is None or self._own.grad is None:
            return
        start = 0
        after = _random_state(self._tuning.device)
        for part, state in zip(self._parts, self._states, strict=True):
            _set_random_state(state)
            gradient = self._own.grad[start : start + len(part)]
            (self._tuning.forward(part) * gradient).sum().backward()
            start += len(part)
        _set_random_state(after)


def _random_state(device: str) -> list[Tensor]:
    """The states that dropout's random numbers come from."""
    of_gpu = [torch.cuda.get_rng_state()] if device.startswith("cuda") else []
    return [torch.get_rng_state(), *of_gpu]


def _set_random_state(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


def _moved(batch: PairBatch, device: str) -> Any:
    labels = batch.labels
    return type(labels)(**{name: value.to(device) for name, value in labels.__dict__.items()})
