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
from ray_pipeline.stages.training.leak import MeasureLeak
from ray_pipeline.stages.training.search import Search, SearchAlone
from ray_pipeline.stages.training.split_groups import SplitGroups
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.stages.training.tokenise import Tokenise

PAIR = ("question", "answer")

PIPELINE = Pipeline(
    "qa-distillation",
    [
        Validate(*PAIR),  # drops rows without text
        DropInvalid(),  # drops rows that a reviewer marked as invalid
        CleanText(*PAIR),  # repairs mojibake, HTML entities, white space
        FillInBlank(),  # turns "Paris is the ____ of France" into a question
        MatchChoices(),  # finds the option that the answer means
        MultipleChoice(),  # makes a question that stands without its options
        OutlierRules(),  # marks course talk, code, filler, other languages
        Embed(*PAIR),
        OutlierClusters(),  # scores how far a row lies from all clusters
        Outliers(),  # a model judges the suspects of rules and clusters
        ExactDuplicates(*PAIR),
        SameText("question"),  # marks questions with several answers
        SameText(  # marks answers with several questions
            "answer",
            ignore=("true", "false", "yes", "no", "all of the above", "none of the above"),
        ),
        NearDuplicates(*PAIR),
        Rephrase("first"),  # rewords the questions that need it
        # A second model rewords those that still need it.
        Rephrase("second", export="deduplication_rephrasing.csv"),
        # Rewording makes rows equal that were not.
        ExactDuplicates(
            *PAIR, name="exact-duplicates-rephrased", export="exact_duplicates_rephrased.csv"
        ),
        NearDuplicates(
            *PAIR, name="near-duplicates-rephrased", export="near_duplicates_rephrased.csv"
        ),
        Augment("formal"),  # each adds a version of every row, as a new row
        Augment("casual"),
        Augment("general"),
        Typos(),
        ParaphraseSimilarity(),  # measures how close each version is to its source
        # Drops unusable versions, and those that do not ask the same in the same words and more.
        AcceptParaphrases(same_question=True, max_lost_words=0),
        SplitGroups(  # rows for training, validation and test; versions and twins on one side
            *PAIR, equal=("question",), equal_if_long=("answer",)
        ),
        MeasureLeak(  # counts test rows with a twin among the training rows
            *PAIR, equal=("question",), equal_if_long=("answer",)
        ),
        Tokenise(*PAIR),
        TrainTeacher(),  # fine-tunes the teacher on the rows
        TeacherLogProbs(),  # stores its log-probabilities at answer tokens
        Search(),  # looks for better parameters of Distil; off by default
        Distil(),  # trains a student with some of the teacher's layers
        SearchAlone(),  # looks for the best learning rate of the control, with as many trials
        TrainAlone(),  # the same student without the teacher, as a control
        Evaluate(),  # measures all models on the held-out rows
    ],
)

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
