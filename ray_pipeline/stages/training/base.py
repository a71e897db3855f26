"""Base of the stages that train a causal language model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import pyarrow as pa

from ray_pipeline.core.config import Execution
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.models.text import TextConfig
from ray_pipeline.models.tokenizer import load_tokenizer, tokenizer_hash
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
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

    version = 2  # since validation rows are those of the source, without their paraphrases
    uses_seed = True
    reads = {
        "input_ids": pa.list_(pa.int32()),
        "answer_mask": pa.list_(pa.bool_()),
        "split": pa.string(),
    }

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stage that tokenises the rows."""
        return (Tokenise,)

    @property
    def training(self) -> TrainingConfig:
        """The configuration that the training follows."""
        config: TrainingConfig = self.config
        return config

    @property
    def text(self) -> TextConfig:
        """The configuration with which the rows were tokenised."""
        return self.stage_of(Tokenise).config.text

    @property
    def tokenizer(self) -> str:
        """Folder or hub id of the tokenizer with which the rows were tokenised."""
        return self.stage_of(Tokenise).tokenizer

    def seeded(self, loop: LoopConfig) -> LoopConfig:
        """A loop's configuration with the run's seed added to its own."""
        return loop.model_copy(update={"seed": self.settings.seed + loop.seed})

    @abstractmethod
    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training job that `make` runs."""

    def repeats(self, job: TrainingJob) -> Sequence[TrainingJob]:
        """Further trainings of the same model with other seeds; none by default."""
        return ()

    def resources(self) -> Resources | None:
        """Resources of Ray Train's workers; None if the training runs in the run's own process."""
        config = self.training.workers
        return None if config.in_process else config.resources()

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Train the model."""
        from ray_pipeline.stages.training.missing_rows import require_rows
        from ray_pipeline.train.launch import run_training

        require_rows(self, rows, train="to train on")
        self._warn_of_evaluation(rows, place)
        job = self.job(rows, place)
        figures = run_training(job, self.training.workers, place.say)
        repeats = self.repeats(job)
        for number, repeat in enumerate(repeats, 2):
            place.say(f"  training {number} of {len(repeats) + 1}, with another seed")
            run_training(repeat, self.training.workers, place.say)
        return figures

    def _warn_of_evaluation(self, rows: StoredRows, place: Workplace) -> None:
        """Say before an expensive training that nothing is kept aside to evaluate its model on."""
        from ray_pipeline.stages.training.missing_rows import require_rows

        for stage in self.settings.stages:
            if isinstance(stage, ArtifactStage) and stage.needs_test_rows and not stage.is_off:
                try:
                    require_rows(stage.bound(stage.config, self.settings), rows, test="to test on")
                except UserError as error:
                    place.say(f"  a later stage will be refused: {error}")


def same_tokenizer(folders: Sequence[str]) -> None:
    """Check that all models have the same tokenizer.

    Raises:
        UserError: the tokenizers differ, so token ids of one model are meaningless to another.
    """
    tokenizers = {folder: load_tokenizer(folder) for folder in folders}
    if len({tokenizer_hash(tokenizer) for tokenizer in tokenizers.values()}) > 1:
        sizes = [f"{folder} ({len(tokenizer)} tokens)" for folder, tokenizer in tokenizers.items()]
        listed = ", ".join(sizes)
        raise UserError(
            f"the models have different tokenizers: {listed}. Student and teacher need one, and "
            "stages.tokenise the same"
        )
