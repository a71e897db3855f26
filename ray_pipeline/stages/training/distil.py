"""Distillation of the teacher into a smaller student, and the same student without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Stage, StageConfig, Workplace
from ray_pipeline.stages.training.base import TrainingConfig, TrainingStage, same_tokenizer
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.job import ModelSource, TrainingJob
from ray_pipeline.train.student import StudentConfig
from ray_pipeline.tune.trials import Parameters


class ParameterSearch:
    """Base of a stage that searches for better parameters than those of `Distil`'s configuration.

    `Distil` finds it by this class, so that this file need not import the search, which imports it.
    """

    def best_parameters(self, run: Storage) -> Parameters | None:
        """The best parameters; None if the search is off.

        Raises:
            RunError: the search has left no result.
        """
        raise NotImplementedError


class Distil(TrainingStage):
    """Trains a student on α·CE + β·T²·KL(teacher ‖ student) of answers: ``models/student``."""

    name = "distil"
    makes = ("models/student/config.json",)

    class Config(TrainingConfig):
        """Configuration of `Distil`. α, β and T follow the original experiment."""

        student: StudentConfig = StudentConfig(every=3)
        alpha: float = Field(0.4664, ge=0, description="α, the weight of the cross-entropy loss")
        beta: float = Field(
            0.2081,
            ge=0,
            description="β, the weight of the distillation loss T² KL(teacher ‖ student)",
        )
        temperature: float = Field(
            0.7,
            gt=0,
            description="temperature T of the teacher's and the student's distribution in the "
            "distillation loss",
        )
        teacher: Literal["cached", "online"] = Field(
            "cached",
            description="cached: use the stored log-probabilities of teacher-log-probs; online: "
            "run the teacher during training",
        )

        @property
        def parameters(self) -> Parameters:
            """The configured values of the parameters that a search varies."""
            return Parameters(
                alpha=self.alpha,
                beta=self.beta,
                temperature=self.temperature,
                learning_rate=self.loop.learning_rate,
            )

    config: Config

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stages for the tokens, the teacher and, if cached, its log-probabilities."""
        cached = self.config.teacher == "cached"
        return (Tokenise, TrainTeacher, *((TeacherLogProbs,) if cached else ()))

    @property
    def models(self) -> Mapping[str, str]:
        """The student, if it is a separate model."""
        name = self.config.student.model
        return {"student.model": name} if name is not None else {}

    @property
    def source(self) -> ModelSource:
        """The model to train: the student made from the run's teacher."""
        student = self.config.student
        return ModelSource("teacher", of_run=True, student=student, student_base=self._other())

    def check(self) -> None:
        """Check that α and β are not both 0, and that the student fits the tokenised rows."""
        self.config.parameters.objective  # noqa: B018 it raises
        if self.config.teacher == "cached" and self.stage_of(TeacherLogProbs).config.k == 0:
            raise UserError(
                "teacher: cached, and stages.teacher-log-probs stores none: raise its k"
            )
        if (other := self._other()) is not None:
            same_tokenizer([self.tokenizer, other])

    def _other(self) -> str | None:
        return self.model("student.model") if self.config.student.model else None

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training of the student with its teacher."""
        return self.job_with(self.chosen_parameters(place.storage), rows, place)

    def chosen_parameters(self, run: Storage) -> Parameters:
        """The best parameters of the run's search; as configured if it has not searched.

        Raises:
            RunError: the search has run, but its result is missing.
        """
        search = self.find_stage(ParameterSearch)
        found = None if search is None else search.best_parameters(run)
        return found or self.config.parameters

    def job_with(self, parameters: Parameters, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training of the student with the given parameters."""
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=place.folder,
            model=self.source,
            name="student",
            text=self.text,
            objective=parameters.objective,
            loop=self.seeded(parameters.loop(self.config.loop)),
            batches=self.config.batches,
            teacher=self.config.teacher,
        )


class TrainAlone(TrainingStage):
    """Trains the student of `Distil` on the same rows without a teacher:
    ``models/student-alone``.

    It is the control: the gain of distillation is the difference between the two students.
    Everything except the loss is that of `Distil`, including a learning rate that a search chose.
    """

    name = "train-alone"
    makes = ("models/student-alone/config.json",)
    Config = StageConfig

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stage that tokenises the rows, and the stage whose student it trains."""
        return (Tokenise, Distil)

    @property
    def training(self) -> Distil.Config:
        """The training configuration of `Distil`."""
        return self.stage_of(Distil).config

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training of the student with cross-entropy on answers."""
        distil, config = self.stage_of(Distil), self.training
        parameters = distil.chosen_parameters(place.storage)
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=place.folder,
            model=distil.source,
            name="student-alone",
            text=self.text,
            loop=self.seeded(parameters.loop(config.loop)),
            batches=config.batches,
        )
