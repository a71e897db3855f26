"""Runs a training: in this process, or by workers of Ray Train."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ray_pipeline.core.errors import RunError, UserError, cause_in_words
from ray_pipeline.core.storage import Storage, filesystem
from ray_pipeline.train.job import TrainingJob, WorkersConfig, train
from ray_pipeline.train.loop import World
from ray_pipeline.train.retrieval.job import RetrieverJob, train_retriever

#: Seconds between two progress lines.
_SAY_EVERY = 10.0


def run_training(
    job: TrainingJob, workers: WorkersConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train to the end, unless an earlier attempt has done so.

    Args:
        job: what to train.
        workers: the processes that train.
        say: takes a line of progress.

    Returns:
        The job's result: how it stopped, steps, best step, validation loss, rows and tokens.

    Raises:
        RunError: it diverged, or workers were lost too often.
        UserError: rows or models do not fit the configuration.
    """
    if (result := job.finished()) is not None:
        return result
    if workers.in_process:
        train(job, World(), "cuda" if workers.uses_gpu else "cpu", ProgressLines(say))
    else:
        config = {"job": job, "gpu": workers.uses_gpu, "sharded": workers.sharded}
        _run_on_cluster(_work, config, workers, job.storage, job.folder, say)
    result = job.finished()
    if result is None:
        raise RunError("the training ended without a result")
    return result


def run_retriever_training(
    job: RetrieverJob, workers: WorkersConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Fine-tune an embedding model to the end, unless an earlier attempt has done so.

    Arguments and errors are those of `run_training`.
    """
    if (result := job.finished()) is not None:
        return result
    if workers.in_process:
        train_retriever(job, World(), "cuda" if workers.uses_gpu else "cpu", say)
    else:
        config = {"job": job, "gpu": workers.uses_gpu}
        _run_on_cluster(_tune, config, workers, job.storage, job.folder, say)
    result = job.finished()
    if result is None:
        raise RunError("the training ended without a result")
    return result


@dataclass
class ProgressLines:
    """Reports the progress of a training every few seconds."""

    say: Callable[[str], None]
    _last_said: float = field(default_factory=time.monotonic)
    _tokens: int = 0
    _loss: float | None = None

    def __call__(self, figures: dict[str, Any]) -> None:
        """Report the figures of a step or an evaluation."""
        if (loss := figures.get("validation_loss")) is not None:
            self.say(f"  step {figures['step']}: validation loss {loss:.4f}")
            return
        self._tokens += figures["tokens"]
        spent = time.monotonic() - self._last_said
        if spent > _SAY_EVERY:
            rate = self._tokens / spent
            self.say(
                f"  step {figures['step']} of {figures['total_steps']}: loss "
                f"{figures['loss']:.4f}, {rate:,.0f} tokens/s"
            )
            self._last_said, self._tokens = time.monotonic(), 0


def _run_on_cluster(
    work: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    workers: WorkersConfig,
    storage: Storage,
    folder: str,
    say: Callable[[str], None],
) -> None:
    """Train on workers of Ray Train. If one is lost, a new group resumes from the checkpoint.

    Every attempt is a new experiment to Ray Train: the run directory holds what is finished.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    number = f"{workers.number} worker" + "s" * (workers.number > 1)
    say(f"  starting {number}" + " with a GPU each" * workers.uses_gpu)
    scratch = f"{folder}/ray-train"
    where, path = filesystem(storage.uri(scratch))
    resources = {"CPU": workers.cpus} | ({"GPU": 1.0} if workers.uses_gpu else {})
    trainer = TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if workers.uses_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.number,
            use_gpu=workers.uses_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:12]}",
            storage_path=path,
            storage_filesystem=where,
            # By default Ray Train requests workers that cannot be placed for ever.
            failure_config=FailureConfig(  # type: ignore[call-arg]  # of Ray Train v2
                max_failures=workers.max_failures, controller_failure_limit=3
            ),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _explained(error) from error
    finally:
        storage.delete_folder(scratch)


def _work(config: dict[str, Any]) -> None:
    """A worker of Ray Train, which has set up the process group."""
    world, device = _here(config)
    train(config["job"], world, device, lambda figures: None, config["sharded"])


def _tune(config: dict[str, Any]) -> None:
    """A worker that fine-tunes an embedding model."""
    world, device = _here(config)
    train_retriever(config["job"], world, device, lambda line: None)


def _here(config: dict[str, Any]) -> tuple[World, str]:
    device = f"cuda:{torch.cuda.current_device()}" if config["gpu"] else "cpu"
    return World.of_process_group(), device


def _explained(error: Any) -> RunError | UserError:
    """The error that the workers raised, as the user should see it."""
    for cause in (getattr(error, "worker_failures", None) or {}).values():
        while cause is not None:
            if isinstance(cause, RunError | UserError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    return RunError(f"the workers of the training failed: {cause_in_words(error)}")
