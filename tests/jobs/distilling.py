"""The second half of `qa_distillation` alone: rows of questions and answers to a student."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.distil import Distil, TrainAlone
from ray_pipeline.stages.evaluate import Evaluate
from ray_pipeline.stages.split import Split
from ray_pipeline.stages.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.tokenise import Tokenise
from ray_pipeline.stages.train_teacher import TrainTeacher

PIPELINE = Pipeline(
    "distilling", [Split, Tokenise, TrainTeacher, TeacherLogProbs, Distil, TrainAlone, Evaluate]
)
