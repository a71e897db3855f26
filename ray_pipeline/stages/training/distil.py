"""Distillation of the teacher into a smaller student, and the same student without a teacher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from ray_pipeline.core.config import AddedWith
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Stage, StageConfig, Workplace
from ray_pipeline.stages.training.base import TrainingConfig, TrainingStage, same_tokenizer
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.chosen_rows import LeftOut
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


class ControlSearch:
    """The same for `TrainAlone`: a stage that searches for its learning rate."""

    def best_parameters(self, run: Storage) -> Parameters | None:
        """The best parameters, of which `TrainAlone` uses the learning rate; None as there."""
        raise NotImplementedError


class StudentStage(TrainingStage):
    """Base of the trainings of the student: with several seeds, if the configuration says so.

    The seed of a training decides the order of its rows, dropout, new weights, and which questions
    a training after the first leaves out.
    """

    #: The name of the first training's model in the run.
    model_name: str

    @property
    @abstractmethod
    def training(self) -> Distil.Config:
        """The training configuration of `Distil`."""

    @property
    def model_names(self) -> list[str]:
        """The names of all trainings' models in the run, those of the same seed in one place."""
        others = range(2, self.training.seeds + 1)
        return [self.model_name, *(f"{self.model_name}-seed-{number}" for number in others)]

    @property
    def makes(self) -> Sequence[str]:
        """The models."""
        return tuple(f"models/{name}/config.json" for name in self.model_names)

    def repeats(self, job: TrainingJob) -> Sequence[TrainingJob]:
        """Further trainings with other seeds, on other samples of the questions."""
        return [_repeat(job, name, seed, self.training.leave_out)
                for seed, name in enumerate(self.model_names[1:], job.loop.seed + 1)]  # fmt: skip


def _repeat(job: TrainingJob, name: str, seed: int, share: float) -> TrainingJob:
    return replace(
        job,
        name=name,
        folder=f"{job.folder}/{name}",
        loop=job.loop.model_copy(update={"seed": seed}),
        left_out=LeftOut(share, seed) if share else None,
    )


class Distil(StudentStage):
    """Trains a student on α·CE + β·T²·KL(teacher ‖ student) of answers: ``models/student``."""

    name = "distil"
    model_name = "student"

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
            "distillation loss. With a cached teacher whose k is below the vocabulary, a T other "
            "than 1 is another loss than with an online one: all tokens that are not stored are "
            "tempered as one. The further T is from 1, the more they differ",
        )
        teacher: Literal["cached", "online"] = Field(
            "cached",
            description="cached: use the stored log-probabilities of teacher-log-probs; online: "
            "run the teacher during training",
        )
        seeds: Annotated[int, AddedWith(1)] = Field(
            1,
            ge=1,
            description="number of trainings of each student, distilled and alone, with different "
            "seeds; `evaluate` compares both students seed by seed. The models of the first "
            "are `student` and `student-alone`",
        )
        leave_out: Annotated[float, AddedWith(0.2)] = Field(
            0.2,
            ge=0,
            lt=1,
            description="share of the training questions that each training after the first "
            "leaves out, sampled by its seed, so that the choice of rows varies, too; both "
            "students of a seed leave out the same",
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
    def training(self) -> Distil.Config:
        """Its configuration."""
        return self.config

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
        parameters = self.chosen_parameters(place.storage)
        if self.config.teacher == "cached" and parameters.temperature != 1 and parameters.beta:
            k = self.stage_of(TeacherLogProbs).config.k
            place.say(
                f"  T is {parameters.temperature:g}, and of the teacher {k} tokens are stored: the "
                "others are tempered as one, which is not the loss of an online teacher"
            )
        return self.job_with(parameters, rows, place)

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
            name=self.model_name,
            text=self.text,
            objective=parameters.objective,
            loop=self.seeded(parameters.loop(self.config.loop)),
            batches=self.config.batches,
            teacher=self.config.teacher,
        )


class TrainAlone(StudentStage):
    """Trains the student of `Distil` on the same rows without a teacher:
    ``models/student-alone``.

    It is the control: the gain of distillation is the difference between the two students. Rows,
    steps and seeds are those of `Distil`; the learning rate is its own, so that neither student is
    tuned better than the other. `ControlSearch` looks for one with the trials of `Distil`'s search.
    """

    name = "train-alone"
    model_name = "student-alone"

    class Config(StageConfig):
        learning_rate: float | None = Field(
            None, gt=0, description="peak learning rate; null: that of distil.loop"
        )

    config: Config

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stage that tokenises the rows, and the stage whose student it trains."""
        return (Tokenise, Distil)

    @property
    def training(self) -> Distil.Config:
        """The training configuration of `Distil`."""
        return self.stage_of(Distil).config

    @property
    def parameters(self) -> Parameters:
        """The configured parameters: cross-entropy alone, and the learning rate."""
        rate = self.config.learning_rate or self.training.loop.learning_rate
        return Parameters(alpha=1.0, beta=0.0, temperature=1.0, learning_rate=rate)

    def chosen_parameters(self, run: Storage) -> Parameters:
        """The best parameters of its own search; as configured if it has not searched.

        Raises:
            RunError: the search has run, but its result is missing.
        """
        search = self.find_stage(ControlSearch)
        found = None if search is None else search.best_parameters(run)
        return found or self.parameters

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training of the student with cross-entropy on answers."""
        return self.job_with(self.chosen_parameters(place.storage), rows, place)

    def job_with(self, parameters: Parameters, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The training of the student with the given learning rate."""
        distil, config = self.stage_of(Distil), self.training
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=place.folder,
            model=distil.source,
            name=self.model_name,
            text=self.text,
            loop=self.seeded(parameters.loop(config.loop)),
            batches=config.batches,
        )
