from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_run import made_run
from support.made_tradeoff_run import made_tradeoff_run
from support.made_trained_run import made_trained_run, metrics

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.published import read


def test_published_figures_stand_beside_those_of_this_run(tmp_path: Path) -> None:
    models = {
        "teacher": {
            "parameters": 100, "bytes": 470, "latency_seconds": 0.8, "perplexity": 10.0,
        },
        "student": {
            "parameters": 11, "bytes": 100, "latency_seconds": 0.1, "perplexity": 25.0,
        },
    }  # fmt: skip
    evaluated = metrics(60)["evaluate"] | {"models": models}
    run = made_trained_run(str(tmp_path), change={"evaluate": evaluated})
    claims = {claim.what: claim for claim in read(ReportReader(run.storage.root)) or []}
    assert claims["parameters of the student"].here == "89% fewer"
    assert claims["size on disk"].here == "4.7 × smaller"
    assert claims["speed of an answer"].here == "8.0 ×"
    assert claims["perplexity relative to the teacher's"].here == "2.50 ×"
    assert "claims to compare with, not a baseline" in page(run).text


def test_a_hypothesis_without_results_is_called_one(tmp_path: Path) -> None:
    run = made_tradeoff_run(str(tmp_path))
    claims = read(ReportReader(run.storage.root)) or []
    assert len(claims) == 2 and all("no results" in claim.published for claim in claims)


def test_a_run_of_another_kind_has_no_such_section(tmp_path: Path) -> None:
    assert read(ReportReader(made_run(str(tmp_path)).storage.root)) is None
