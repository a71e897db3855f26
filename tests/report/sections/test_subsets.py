from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.html_page import page
from support.made_scored_run import made_scored_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.subsets import read

SUBSETS = {
    "high": {
        "of": "high",
        "control": False,
        "rows": 100,
        "tokens": 12_345,
        "score_min": 0.61,
        "score_max": 0.93,
        "score_mean": 0.7,
        "by_source": {"dolly": 60, "gsm8k": 30, **{f"s{i}": 2 for i in range(5)}},
        "smaller_than_asked": True,
    },
    "high-random": {"control": True, "rows": 100, "quality_tokens": 11_000, "by_source": {}},
    "<b>odd</b>": {"rows": "many", "score_min": float("nan"), "control": 1},
    "broken": 7,
}


def test_subsets_are_a_table(tmp_path: Path) -> None:
    run = made_scored_run(str(tmp_path), metrics={"write-subsets": {"subsets": SUBSETS}})
    high, control, odd = read(ReportReader(run.storage.root)) or []
    assert (high.name, high.is_control, high.rows, high.tokens) == ("high", False, 100, 12_345)
    assert (high.lowest, high.mean, high.highest) == (0.61, 0.7, 0.93)
    assert high.is_smaller and len(high.sources) == 5 and high.other_sources == 2
    assert control.is_control and control.lowest is None and control.sources == []
    assert control.tokens == 11_000 and not control.is_smaller
    assert (odd.rows, odd.tokens, odd.lowest) == (None, None, None)
    shown = page(run)
    text = shown.words
    assert "dolly 60, gsm8k 30, s0 2, s1 2, s2 2, 2 more" in text
    assert "100all available12,3450.61000.70000.9300" in text  # cells follow each other
    assert "<b>odd</b>" in text and "b" not in shown.names


@pytest.mark.parametrize("figures", [{}, {"subsets": None}, {"subsets": []}])
def test_without_subsets_there_is_no_table(tmp_path: Path, figures: Any) -> None:
    run = made_scored_run(str(tmp_path), rows=20, metrics={"write-subsets": figures})
    assert read(ReportReader(run.storage.root)) is None
    assert "Subsets" not in page(run).text
