"""Questions and answers to a teacher and what it says: a part of `qa_distillation`."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.split import Split
from ray_pipeline.stages.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.tokenise import Tokenise
from ray_pipeline.stages.train_teacher import TrainTeacher

PIPELINE = Pipeline("distillation", [Split, Tokenise, TrainTeacher, TeacherLogProbs])
