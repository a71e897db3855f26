"""Fine-tuning of the teacher on the run's own rows, before the student learns from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Workplace
from ray_pipeline.stages.training.base import TrainingConfig, TrainingStage, same_tokenizer
from ray_pipeline.train.adapters import AdapterConfig
from ray_pipeline.train.job import ModelSource, TrainingJob
from ray_pipeline.train.store import put_model
from ray_pipeline.train.student import load


class TrainTeacher(TrainingStage):
    """Fine-tunes the teacher on the training rows, and writes it to ``models/teacher``."""

    name = "train-teacher"
    makes = ("models/teacher/config.json",)

    class Config(TrainingConfig):
        model: str = Field(
            "smollm2-135m-instruct",
            description="model to fine-tune: a packaged name, a folder or a Hugging Face id",
        )
        method: Literal["full", "lora", "none"] = Field(
            "full",
            description="full: train all weights; lora: train an adapter and merge it into the "
            "weights; none: use the model unchanged",
        )
        adapter: AdapterConfig = AdapterConfig()

    config: Config

    @property
    def models(self) -> Mapping[str, str]:
        """The model to fine-tune."""
        return {"model": self.config.model}

    def check(self) -> None:
        """Check that the model can be loaded and has the tokenizer of the rows."""
        if self.config.method == "lora":
            self.config.adapter.check()
            if self.config.adapter.four_bit and self.config.workers.sharded:
                raise UserError(
                    "workers.sharded does not divide weights of adapter.four_bit: leave one of "
                    "them out"
                )
        same_tokenizer([self.tokenizer, self.model("model")])

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The fine-tuning of the teacher with cross-entropy on answers."""
        adapter = self.config.adapter if self.config.method == "lora" else None
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=place.folder,
            model=ModelSource(self.model("model"), adapter=adapter),
            name="teacher",
            text=self.text,
            loop=self.seeded(self.config.loop),
            batches=self.config.batches,
        )

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Fine-tune the teacher, or copy it unchanged."""
        if self.config.method != "none":
            return super().make(rows, place)
        folder = self.model("model")
        put_model(place.storage, "teacher", load(folder), load_tokenizer(folder), self.text)
        return {"stopped": "not trained", "steps": 0}
