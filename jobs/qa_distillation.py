"""Raw question-answer rows to clean question-answer pairs.

Run it with ``ray-pipeline run configs/qa_distillation/demo.yaml``, or on a cluster with
``ray job submit -- python jobs/qa_distillation.py --config configs/qa_distillation/cluster.yaml``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.clean_text import CleanText
from ray_pipeline.stages.drop_invalid import DropInvalid
from ray_pipeline.stages.fill_in_blank import FillInBlank
from ray_pipeline.stages.match_choices import MatchChoices
from ray_pipeline.stages.multiple_choice import MultipleChoice
from ray_pipeline.stages.validate import Validate

PIPELINE = Pipeline(
    "qa-distillation",
    [
        Validate,  # the columns are there and hold text
        DropInvalid,  # rows that a reviewer marked invalid
        CleanText,  # mojibake, HTML entities, symbols, white space
        FillInBlank,  # "Paris is the ____ of France" becomes a question
        MatchChoices,  # which of its options the answer means
        MultipleChoice,  # a question that stands without its options
    ],
)

if __name__ == "__main__":
    PIPELINE.main()
