"""Turns raw question-answer rows into clean pairs in five versions, and distils a small model.

Run it with ``ray-pipeline run configs/qa_distillation/demo.yaml``, or on a cluster with
``ray job submit -- python jobs/qa_distillation.py --config configs/qa_distillation/cluster.yaml``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.clean_text import CleanText
from ray_pipeline.stages.cleaning.drop_invalid import DropInvalid
from ray_pipeline.stages.cleaning.validate import Validate
from ray_pipeline.stages.duplicates.exact import ExactDuplicates, SameText
from ray_pipeline.stages.duplicates.near import NearDuplicates
from ray_pipeline.stages.embed import Embed
from ray_pipeline.stages.outliers.clusters import OutlierClusters
from ray_pipeline.stages.outliers.judge import Outliers
from ray_pipeline.stages.outliers.rules import OutlierRules
from ray_pipeline.stages.questions.accept import AcceptParaphrases
from ray_pipeline.stages.questions.augment import Augment
from ray_pipeline.stages.questions.fill_in_blank import FillInBlank
from ray_pipeline.stages.questions.match_choices import MatchChoices
from ray_pipeline.stages.questions.multiple_choice import MultipleChoice
from ray_pipeline.stages.questions.rephrase import Rephrase
from ray_pipeline.stages.questions.similarity import ParaphraseSimilarity
from ray_pipeline.stages.questions.typos import Typos
from ray_pipeline.stages.training.distil import Distil, TrainAlone
from ray_pipeline.stages.training.evaluate import Evaluate
from ray_pipeline.stages.training.search import Search
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise

PIPELINE = Pipeline(
    "qa-distillation",
    [
        Validate("question", "answer"),  # the columns are there and hold text
        DropInvalid(),  # rows that a reviewer marked invalid
        CleanText("question", "answer"),  # mojibake, HTML entities, symbols, white space
        FillInBlank(),  # "Paris is the ____ of France" becomes a question
        MatchChoices(),  # which of its options the answer means
        MultipleChoice(),  # a question that stands without its options
        OutlierRules(),  # course talk, code, filler, other languages
        Embed("question", "answer"),
        OutlierClusters(),  # how far a row lies from what the others are about
        Outliers(),  # a model judges what rules and clusters suspect
        ExactDuplicates("question", "answer"),
        SameText("question"),  # marks questions with several answers
        SameText(
            "answer",
            ignore=("true", "false", "yes", "no", "all of the above", "none of the above"),
        ),  # marks answers with several questions
        NearDuplicates("question", "answer"),
        Rephrase("first"),  # other words where a question needs them
        Rephrase(
            "second", export="deduplication_rephrasing.csv"
        ),  # a second model, for what is still in need
        Augment("formal"),  # each makes a version of every row, as a new row
        Augment("casual"),
        Augment("general"),
        Typos(),
        ParaphraseSimilarity(),  # how close each version is to its source
        AcceptParaphrases(),  # versions that are no good are dropped
        Split(by="parent"),  # rows to train on, to validate with and to test on
        Tokenise("question", "answer"),
        TrainTeacher(),  # fine-tunes it on the rows
        TeacherLogProbs(),  # what the teacher says about every answer token, stored once
        Search(),  # for better α, β, temperature and learning rate; off by default
        Distil(),  # a student of a part of the teacher's layers
        TrainAlone(),  # the same student without the teacher: what did distilling gain?
        Evaluate(),  # teacher and students on the rows kept aside
    ],
)

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
