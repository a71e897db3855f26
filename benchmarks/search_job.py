"""The job that benchmarks/search.py runs, up to its search."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.distil import Distil
from ray_pipeline.stages.search import Search
from ray_pipeline.stages.split import Split
from ray_pipeline.stages.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.tokenise import Tokenise
from ray_pipeline.stages.train_teacher import TrainTeacher

PIPELINE = Pipeline("search", [Split, Tokenise, TrainTeacher, TeacherLogProbs, Search, Distil])
