"""Rows of questions and answers to a student, with a search for its hyper-parameters before,
and the same for its control."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.training.distil import Distil, TrainAlone
from ray_pipeline.stages.training.search import Search, SearchAlone
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise

PIPELINE = Pipeline(
    "searching",
    [
        Split(),
        Tokenise("question", "answer"),
        TrainTeacher(),
        TeacherLogProbs(),
        Search(),
        Distil(),
        SearchAlone(),
        TrainAlone(),
    ],
)
