"""The second half of `qa_distillation` alone: rows of questions and answers to a student."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.training.distil import Distil, TrainAlone
from ray_pipeline.stages.training.evaluate import Evaluate
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise

PIPELINE = Pipeline(
    "distilling",
    [
        Split(),
        Tokenise("question", "answer"),
        TrainTeacher(),
        TeacherLogProbs(),
        Distil(),
        TrainAlone(),
        Evaluate(),
    ],
)
