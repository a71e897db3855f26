from __future__ import annotations

import io

from rich.console import Console

from ray_pipeline.cli.views.plan import print_plan
from ray_pipeline.engine.plan import StagePlan

PLANS = [
    StagePlan("source", "reused", 60),
    StagePlan("ask", "run", 54, 54, 600, 1_080, 11.4),
    StagePlan("train", "run", 54, note="about 3 hours"),
]


def test_blank_where_nothing_is_asked_and_the_sum_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    print_plan(console, PLANS)
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines[1:4] == [
        ["source", "reused", "60"],
        ["ask", "run", "54", "54", "600", "1,080", "$11.40"],
        ["train", "run", "54"],
    ]
    assert lines[4] == ["train:", "about", "3", "hours"]
    assert lines[5][:2] == ["about", "$11.40,"]
