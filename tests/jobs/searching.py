"""Rows of questions and answers to a student, with a search for its hyper-parameters before."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.distil import Distil
from ray_pipeline.stages.search import Search
from ray_pipeline.stages.split import Split
from ray_pipeline.stages.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.tokenise import Tokenise
from ray_pipeline.stages.train_teacher import TrainTeacher

PIPELINE = Pipeline("searching", [Split, Tokenise, TrainTeacher, TeacherLogProbs, Search, Distil])
