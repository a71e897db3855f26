"""The job that benchmarks/search.py runs, up to its search."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.training.distil import Distil
from ray_pipeline.stages.training.search import Search
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise

PIPELINE = Pipeline(
    "search",
    [
        Split(),
        Tokenise("question", "answer"),
        TrainTeacher(),
        TeacherLogProbs(),
        Search(),
        Distil(),
    ],
)
