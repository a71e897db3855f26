"""The stages of the job qa_distillation when the archive beside this file was made."""

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
        Validate("question", "answer"),  # drops rows without text
        DropInvalid(),  # drops rows that a reviewer marked as invalid
        CleanText("question", "answer"),  # repairs mojibake, HTML entities, white space
        FillInBlank(),  # turns "Paris is the ____ of France" into a question
        MatchChoices(),  # finds the option that the answer means
        MultipleChoice(),  # makes a question that stands without its options
        OutlierRules(),  # marks course talk, code, filler, other languages
        Embed("question", "answer"),
        OutlierClusters(),  # scores how far a row lies from all clusters
        Outliers(),  # a model judges the suspects of rules and clusters
        ExactDuplicates("question", "answer"),
        SameText("question"),  # marks questions with several answers
        SameText(  # marks answers with several questions
            "answer",
            ignore=("true", "false", "yes", "no", "all of the above", "none of the above"),
        ),
        NearDuplicates("question", "answer"),
        Rephrase("first"),  # rewords the questions that need it
        # A second model rewords those that still need it.
        Rephrase("second", export="deduplication_rephrasing.csv"),
        Augment("formal"),  # each adds a version of every row, as a new row
        Augment("casual"),
        Augment("general"),
        Typos(),
        ParaphraseSimilarity(),  # measures how close each version is to its source
        AcceptParaphrases(),  # drops unusable versions
        Split(by="parent"),  # rows for training, validation and test
        Tokenise("question", "answer"),
        TrainTeacher(),  # fine-tunes the teacher on the rows
        TeacherLogProbs(),  # stores its log-probabilities at answer tokens
        Search(),  # looks for better parameters of Distil; off by default
        Distil(),  # trains a student with some of the teacher's layers
        TrainAlone(),  # the same student without the teacher, as a control
        Evaluate(),  # measures all models on the held-out rows
    ],
)
