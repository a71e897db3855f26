from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from support.html_page import page
from support.made_tradeoff_run import made_tradeoff_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.orderings import read

LINE: dict[str, Any] = {
    "score": "<b>quality",
    "subsets": 9,
    "with_length_over_rows": 0.742,
    "with_length": 0.9,
    "with_loss": -0.6,
    "p_value": 0.04,
    "with_loss_at_fixed_length": None,
    "p_value_at_fixed_length": None,
    "p_adjusted": 0.08,
    "p_adjusted_at_fixed_length": None,
}
FOUND: dict[str, Any] = {
    "rows": 175,
    "effort": {"updates": "33"},
    "subsets": [
        {
            "subset": name,
            "means": {"quality": None, "length": 90.25},
            "loss": {"mean": loss, "low": loss - 0.1, "high": loss + 0.1, "number": 3},
        }
        for name, loss in (("few", 7.3), ("ordered-by-lowest-length", 6.0))
    ],
    "not_compared": {"ordered-by-ifd": "33 against 52 updates"},
    "scores": [LINE],
    "length": {"with_loss": -0.5},
    "sentences": ["How much of the score is length: much."],
}


def test_scores_and_their_subsets_are_shown_the_lowest_loss_first(tmp_path: Path) -> None:
    run = made_tradeoff_run(str(tmp_path))
    assert read(ReportReader(run.storage.root)) is None
    analysis = orjson.loads(run.storage.read_bytes("experiment/analysis.json") or b"")
    raw = orjson.dumps(analysis | {"orderings": FOUND})
    run.storage.write_bytes("experiment/analysis.json", raw)
    section = read(ReportReader(run.storage.root))
    assert section is not None
    assert [line.name for line in section.subsets] == ["ordered-by-lowest-length", "few"]
    (score,) = section.scores
    assert (score.with_length_over_rows, score.with_loss.text) == ("+0.74", "-0.60")
    assert score.with_loss.interval == "p 0.080" and score.at_fixed_length.interval == ""
    html = page(run)
    for words in ("Does the score predict?", "33 against 52 updates", "<b>quality", "175 rows"):
        assert words in html.text
    run.storage.write_bytes("experiment/analysis.json", b"{")
    assert read(ReportReader(run.storage.root)) is None
