"""Questions and answers to a teacher and what it says: a part of `qa_distillation`."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise

PIPELINE = Pipeline(
    "distillation", [Split(), Tokenise("question", "answer"), TrainTeacher(), TeacherLogProbs()]
)
