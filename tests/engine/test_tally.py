"""The live numbers of a run, whatever the workers report."""

from ray_pipeline.engine.account import StageAccount
from ray_pipeline.engine.coordinator import Snapshot
from ray_pipeline.engine.segment import Segment
from ray_pipeline.engine.tally import Tally
from ray_pipeline.engine.unit_work import Receipt


def test_a_late_word_of_an_earlier_execution_is_no_error() -> None:
    segment = Segment(2, "second", (), ("f",), True, "f")
    tally = Tally([segment], units=1)
    account = StageAccount("source", rows_in=3, kept=3)
    late, fresh = Receipt("unit", False, [account]), Receipt("unit", False, [account])
    tally.update(Snapshot(receipts={1: [late], 2: [fresh]}))
    assert list(tally.segments) == [2]
    assert tally.segments[2].finished
