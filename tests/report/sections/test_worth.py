from __future__ import annotations

from pathlib import Path
from typing import Any

from support.html_page import page
from support.made_run import made_run
from support.made_tradeoff_run import made_tradeoff_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.worth import Cost, _sentences, read


def mode(chosen: str | None, few: float, all_rows: float) -> dict[str, Any]:
    """A mode of an analysis with two subsets, and the seconds of a training on each."""
    subsets = [
        {"subset": name, "control": False, "rows": rows, "seconds": {"mean": seconds}}
        for name, rows, seconds in (("few", 10, few), ("all", 100, all_rows))
    ]
    control = {"subset": "few-random", "control": True, "rows": 10, "seconds": {"mean": 1.0}}
    found = {"intervals": {"subset": chosen}, "rule": {"subset": None}}
    return {"subsets": [*subsets, control], "threshold": found}


WRITTEN = {"few": {"score_min": 0.71239}, "all": {"score_min": 0.1}}
COST = Cost(rows=1000, seconds=90.0, dollars=2.5)


def test_the_recommended_subset_has_its_cut_off_and_what_it_costs_to_find() -> None:
    cut_off, cost = _sentences(mode("few", 20.0, 60.0), WRITTEN, COST)
    assert "few, the rows with a quality of at least 0.7124" in cut_off
    assert "from 1,000 rows took 90.00 s and $2.50, once" in cost
    assert "won back with 3 trainings" in cost  # 90 s over 40 s each


def test_what_saves_nothing_is_said_to_save_nothing() -> None:
    assert "saves no training time" in _sentences(mode("few", 59.0, 60.0), WRITTEN, COST)[1]
    assert "saves no training time" in _sentences(mode("few", 70.0, 60.0), WRITTEN, COST)[1]
    assert "saves no training: the largest" in _sentences(mode("all", 1, 60.0), WRITTEN, COST)[1]
    assert "the first training" in _sentences(mode("few", 1.0, 600.0), WRITTEN, COST)[1]


def test_without_a_recommendation_there_is_no_cut_off() -> None:
    assert _sentences(mode(None, 1, 2), WRITTEN, COST) == [
        "No subset is recommended, so there is no cut-off to use."
    ]
    (sentence,) = _sentences(mode("few", 1, 2), {}, None)
    assert "its lowest score is not on record" in sentence


def test_a_rule_without_intervals_is_named(tmp_path: Path) -> None:
    found = mode(None, 1, 2)
    found["threshold"]["rule"]["subset"] = "all"
    assert "by the rule alone: all" in _sentences(found, WRITTEN, None)[0]


def test_it_stands_in_the_report_of_an_experiment_and_of_no_other_run(tmp_path: Path) -> None:
    run = made_tradeoff_run(str(tmp_path / "tradeoff"))
    section = read(ReportReader(run.storage.root))
    assert section is not None and len(section.modes) == 2
    assert "Is selecting worth it" in page(run).text
    other = made_run(str(tmp_path / "other"))
    assert read(ReportReader(other.storage.root)) is None
