"""Like toy_decide; a text with ``slow`` takes its time to be decided on, ``broken`` raises."""

import time

import pyarrow as pa
from toy import First, Shout, Whisper

from ray_pipeline.pipeline import Pipeline


class FirstByWords(First):
    """Keeps one row of each text, as its words say."""

    def losers(self, groups: pa.Table) -> pa.Table:
        for text in groups["text"].to_pylist():
            if "slow" in text:
                time.sleep(0.25)
            if "broken" in text:
                raise ValueError("the text says broken")
        return super().losers(groups)


PIPELINE = Pipeline("toy-decide-words", [Shout(), FirstByWords(), Whisper()])
