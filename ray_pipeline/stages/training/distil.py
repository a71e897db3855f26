"""Distillation of the teacher into a smaller student, and the same student without a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import StageConfig, Workplace
from ray_pipeline.stages.training.base import TrainingConfig, TrainingStage, same_tokenizer
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.train.job import ModelSource, TrainingJob
from ray_pipeline.train.student import StudentConfig
from ray_pipeline.tune.trials import Parameters, get_best

#: The stage that looks for better parameters than those configured here; see `stages.search`.
SEARCH = "search"


class DistilConfig(TrainingConfig):
    """Configuration of `Distil`. α, β and T are the seed's."""

    student: StudentConfig = StudentConfig(every=3)
    alpha: float = Field(0.4664, ge=0, description="weight of the cross-entropy")
    beta: float = Field(0.2081, ge=0, description="weight of T² KL(teacher ‖ student)")
    temperature: float = Field(0.7, gt=0)
    teacher: Literal["cached", "online"] = Field(
        "cached", description="its stored log-probabilities, or the model beside the student"
    )

    @property
    def parameters(self) -> Parameters:
        """What a search varies, as configured."""
        return Parameters(
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            learning_rate=self.loop.learning_rate,
        )


def student_source(config: StudentConfig, resolved: str | None) -> ModelSource:
    """The student made of the run's teacher."""
    return ModelSource("teacher", of_run=True, student=config, student_base=resolved)


def parameters_of(config: DistilConfig, stages: Mapping[str, Any], run: Storage) -> Parameters:
    """The best ones that the run's search found, where it has searched; else as configured.

    Raises:
        RunError: it has searched, and its result is not there.
    """
    search = stages.get(SEARCH)
    return get_best(run) if search is not None and search.trials else config.parameters


class Distil(TrainingStage):
    """Makes ``models/student``: α·CE + β·T²·KL(teacher ‖ student) on answers."""

    name: ClassVar[str] = "distil"
    makes: ClassVar[Sequence[str]] = ("models/student/config.json",)
    Config: ClassVar[type[StageConfig]] = DistilConfig

    @classmethod
    def models(cls, config: Any) -> Mapping[str, str]:
        """The student, where it is another model."""
        name = config.student.model
        return {"student.model": name} if name is not None else {}

    @property
    def source(self) -> ModelSource:
        """What is trained."""
        return student_source(self.config.student, self._other())

    def check(self) -> None:
        """See that α and β make an objective, and that a model named as student fits the rows."""
        self.config.parameters.objective  # noqa: B018 it raises
        if self.config.teacher == "cached" and self.settings.stages[TeacherLogProbs.name].k == 0:
            raise UserError(
                "teacher: cached, and stages.teacher-log-probs stores none: raise its k"
            )
        if (other := self._other()) is not None:
            same_tokenizer([self.tokenizer, other])

    def _other(self) -> str | None:
        return self.model("student.model") if self.config.student.model else None

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The student under its teacher."""
        parameters = parameters_of(self.config, self.settings.stages, place.storage)
        return self.job_with(parameters, rows, place)

    def job_with(self, parameters: Parameters, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The same with other parameters."""
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=place.folder,
            model=self.source,
            name="student",
            text=self.text,
            objective=parameters.objective,
            loop=parameters.loop(self.config.loop),
            batches=self.config.batches,
            teacher=self.config.teacher,
        )


class TrainAlone(TrainingStage):
    """Makes ``models/student-alone``: `Distil`'s student on the same rows, without a teacher.

    The control: what distilling gains is what the student has over this one. All but the loss is
    that of `Distil`, the learning rate too where a search chose it.
    """

    name: ClassVar[str] = "train-alone"
    makes: ClassVar[Sequence[str]] = ("models/student-alone/config.json",)
    Config: ClassVar[type[StageConfig]] = StageConfig

    @property
    def training(self) -> Any:
        """That of `Distil`."""
        return self.settings.stages[Distil.name]

    def job(self, rows: StoredRows, place: Workplace) -> TrainingJob:
        """The student's cross-entropy on answers."""
        config = self.training
        other = config.student.model
        parameters = parameters_of(config, self.settings.stages, place.storage)
        return TrainingJob(
            rows=rows,
            storage=place.storage,
            folder=place.folder,
            model=student_source(config.student, self.settings.models[other] if other else None),
            name="student-alone",
            text=self.text,
            loop=parameters.loop(config.loop),
            batches=config.batches,
        )
