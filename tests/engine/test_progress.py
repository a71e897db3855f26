"""The live numbers of a run, whatever the workers report."""

from ray_pipeline.engine.coordinator import Snapshot
from ray_pipeline.engine.progress import Tally
from ray_pipeline.engine.segments import Segment
from ray_pipeline.engine.unit import Receipt
from ray_pipeline.rundir.account import StageAccount


def test_a_late_word_of_an_earlier_execution_is_no_error() -> None:
    segment = Segment(2, "second", (), ("f",), True, "f")
    tally = Tally([segment], units=1)
    account = StageAccount("source", rows_in=3, kept=3)
    late, fresh = Receipt("unit", False, [account]), Receipt("unit", False, [account])
    tally.update(Snapshot(receipts={1: [late], 2: [fresh]}))
    assert list(tally.segments) == [2]
    assert tally.segments[2].finished
