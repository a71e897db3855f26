"""What the stages that train a causal language model have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import pyarrow as pa

from ray_pipeline.core.config import Execution
from ray_pipeline.core.errors import UserError
from ray_pipeline.models.text import TextConfig
from ray_pipeline.models.tokenizer import load_tokenizer, tokenizer_hash
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, StageConfig, Workers, Workplace
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.batches import BatchConfig
from ray_pipeline.train.job import TrainingJob, WorkersConfig
from ray_pipeline.train.loop import LoopConfig


class TrainingConfig(StageConfig):
    """Configuration of a stage that trains."""

    loop: LoopConfig = LoopConfig()
    batches: BatchConfig = BatchConfig()
    workers: Annotated[WorkersConfig, Execution] = WorkersConfig()


class TrainingStage(ArtifactStage):
    """Trains a model on the token rows of the training split, and keeps it in the run."""

    reads: ClassVar[Mapping[str, pa.DataType]] = {
        "input_ids": pa.list_(pa.int32()),
        "answer_mask": pa.list_(pa.bool_()),
        "split": pa.string(),
    }
    Config: ClassVar[type[StageConfig]] = TrainingConfig

    @property
    def training(self) -> Any:
        """The configuration (a `TrainingConfig`) that the training follows."""
        return self.config

    @property
    def text(self) -> TextConfig:
        """How rows became tokens."""
        text: TextConfig = self.settings.stages[Tokenise.name].text
        return text

    @property
    def tokenizer(self) -> str:
        """Folder or hub id of the tokenizer that the rows' tokens are of."""
        return self.settings.models[self.settings.stages[Tokenise.name].model]

    @abstractmethod
    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training."""

    def workers(self) -> Workers | None:
        """Those of Ray Train; None where the run's own process trains."""
        config: WorkersConfig = self.training.workers
        if config.in_process:
            return None
        return Workers(config.number, config.cpus, int(config.uses_gpu))

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Train the model."""
        from ray_pipeline.train.launch import run_training

        return run_training(self.job(rows, place), self.training.workers, place.say)


def same_tokenizer(folders: Sequence[str]) -> None:
    """See that models have one tokenizer.

    Raises:
        UserError: they have different ones, so that one's tokens mean nothing to the other.
    """
    tokenizers = {folder: load_tokenizer(folder) for folder in folders}
    if len({tokenizer_hash(tokenizer) for tokenizer in tokenizers.values()}) > 1:
        sizes = [f"{folder} ({len(tokenizer)} tokens)" for folder, tokenizer in tokenizers.items()]
        listed = ", ".join(sizes)
        raise UserError(
            f"the models have different tokenizers: {listed}. Student and teacher need one, and "
            "stages.tokenise the same"
        )
