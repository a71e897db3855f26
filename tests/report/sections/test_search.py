from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report.test_report import page
from support.made_run import MadeRun
from support.made_trained_run import HISTORY, made_trained_run, metrics

from ray_pipeline.report.sections.search import Search, search
from ray_pipeline.rundir.reader import RunReader


def with_search(path: Path, **change: Any) -> MadeRun:
    return made_trained_run(str(path), change={"search": metrics(60)["search"] | change})


def found(run: MadeRun) -> Search:
    section = search(RunReader(run.storage.root))
    assert section is not None
    return section


def test_every_trial_is_drawn_or_counted(tmp_path: Path) -> None:
    section = found(made_trained_run(str(tmp_path)))
    assert (section.complete, section.pruned, section.failed, section.beyond) == (3, 1, 1, 0)
    assert section.svg.count('class="mark trial"') == 3
    assert section.svg.count('class="mark pruned"') == 1
    assert section.svg.count('class="line default"') == 1
    assert section.parameters == ["alpha", "learning_rate"]
    assert [line.trial.number for line in section.ranked] == [2, 4, 0, 1]
    assert section.ranked[0].values == ["0.2500", "1.000e-4"]


def test_the_best_so_far_only_falls(tmp_path: Path) -> None:
    history = [
        {"trial": n, "loss": loss, "status": "complete"}
        for n, loss in enumerate([3.0, 3.2, 2.5, 2.8, 2.6, 2.0, 2.4])
    ]
    svg = found(with_search(tmp_path, history=history, default_loss=3.0)).svg
    (line,) = [path for path in svg.split("<path ") if path.startswith('class="line best"')]
    line = line.split('"/>')[0]
    heights = [float(step.split(" ")[0]) for step in line.split("V")[1:]]
    assert heights == sorted(heights) and len(set(heights)) == 3  # down the page
    ends = line.split("H")[-1].split(" ")[0]
    assert float(ends) == 330.0  # it stays to the last trial


def test_what_is_not_reported_is_taken_from_the_trials(tmp_path: Path) -> None:
    section = found(with_search(tmp_path, best_loss=None, best=None))
    assert section.sentence.startswith("The lowest validation loss is 2.300, with alpha 0.2500")


def test_the_values_of_trial_0_are_those_that_are_configured(tmp_path: Path) -> None:
    made = metrics(60)["search"]
    figures = {
        "best_parameters": made["best"],
        "best_loss": made["best_loss"],
        "configured_loss": made["default_loss"],
        "history": [one | {"lowest": 2.3} for one in made["history"]],
    }
    run = made_trained_run(str(tmp_path / "a"), change={"search": figures})
    assert found(run) == found(made_trained_run(str(tmp_path / "b")))


def test_a_trial_that_diverged_does_not_flatten_the_others(tmp_path: Path) -> None:
    losses = [2.4, 2.3, 2.5, 2.35, 2.2, 4_000.0, 2.45, 2.31]
    history = [{"trial": n, "loss": x, "status": "complete"} for n, x in enumerate(losses)]
    run = with_search(tmp_path, history=history)
    section = found(run)
    assert section.beyond == 1
    assert "1 with a loss above the axis" in page(run).text
    heights = [
        float(mark.split('cy="')[1].split('"')[0]) for mark in section.svg.split("<circle")[1:]
    ]
    assert len(heights) == 7 and max(heights) - min(heights) > 80


@pytest.mark.parametrize(
    ("default", "end"),
    [
        (2.4, ": 4.2 % less than the 2.400 of the configured values."),
        (2.2, ": 4.5 % more than the 2.200 of the configured values."),
        (2.30001, "; the configured values give the same."),
        (None, "learning_rate 1.000e-4."),
    ],
)
def test_the_sentence_compares_with_what_is_configured(
    tmp_path: Path, default: float | None, end: str
) -> None:
    section = found(with_search(tmp_path, default_loss=default))
    assert section.sentence.startswith(
        "The lowest validation loss is 2.300, with alpha 0.2500, beta 0.2000, temperature 0.7000"
    )
    assert section.sentence.endswith(end)
    assert section.has_default is (default is not None)


def test_a_first_trial_that_diverged_stays_in_the_drawing(tmp_path: Path) -> None:
    losses = [4_000.0, 2.4, 2.3, 2.5, 2.35, 2.2, 2.45, 2.31]
    history = [{"trial": n, "loss": x, "status": "finished"} for n, x in enumerate(losses)]
    svg = found(with_search(tmp_path, history=history)).svg
    path = svg.split('class="line best" d="M')[1].split('"')[0]
    assert 0 < float(path.split(" ")[0].split(",")[1]) < 170


def test_parameters_may_stand_apart(tmp_path: Path) -> None:
    nested = [
        {
            "trial": one["trial"],
            "loss": one["loss"],
            "status": one["status"],
            "parameters": {"alpha": one["alpha"], "schedule": "cosine"},
        }
        for one in HISTORY
    ]
    section = found(with_search(tmp_path, history=nested))
    assert section.parameters == ["alpha", "schedule"]
    assert section.ranked[0].values == ["0.2500", "cosine"]


def test_many_trials_make_no_large_page(tmp_path: Path) -> None:
    history = [
        {"trial": n, "loss": 2 + n % 17 / 10, "status": "complete", "alpha": n / 500}
        for n in range(500)
    ]
    run = with_search(tmp_path, history=history)
    assert len(found(run).ranked) == 30
    page(run)
    assert run.storage.local_path("report.html").stat().st_size < 300_000


def test_one_trial_is_a_search_too(tmp_path: Path) -> None:
    section = found(with_search(tmp_path, history=HISTORY[:1], default_loss=None))
    assert section.complete == 1 and section.svg.count('class="mark trial"') == 1


@pytest.mark.parametrize(
    "history", [None, {}, [], ["x"], [{"trial": 0}], [{"loss": None}], [HISTORY[3]]]
)
def test_without_a_trial_that_has_a_loss_there_is_no_section(tmp_path: Path, history: Any) -> None:
    run = with_search(tmp_path, history=history)
    assert search(RunReader(run.storage.root)) is None
    assert page(run).tags


def test_hostile_parameters_stay_texts(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b"
    history = [{"trial": 0, "loss": 2.0, "status": hostile, hostile: hostile}]
    shown = page(with_search(tmp_path, history=history, best={hostile: hostile}))
    assert "script" not in {tag for tag, _ in shown.tags} and "\x1b" not in shown.text
    assert shown.text.count("<script>alert(1)</script>") == 5
