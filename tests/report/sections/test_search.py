from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.html_page import page
from support.made_run import MadeRun
from support.made_trained_run import HISTORY, made_trained_run, metrics

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.search import Search, _control, read
from ray_pipeline.stages.training.search import _figures
from ray_pipeline.tune.trials import Parameters, TrialRecord


def with_search(path: Path, **change: Any) -> MadeRun:
    return made_trained_run(str(path), change={"search": metrics(60)["search"] | change})


def trial(number: int, loss: float) -> dict[str, Any]:
    return {"trial": number, "status": "finished", "loss": loss, "lowest": loss}


def found(run: MadeRun) -> Search:
    section = read(ReportReader(run.storage.root))
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
    history = [trial(n, loss) for n, loss in enumerate([3.0, 3.2, 2.5, 2.8, 2.6, 2.0, 2.4])]
    svg = found(with_search(tmp_path, history=history, configured_loss=3.0)).svg
    (line,) = [path for path in svg.split("<path ") if path.startswith('class="line best"')]
    line = line.split('"/>')[0]
    heights = [float(step.split(" ")[0]) for step in line.split("V")[1:]]
    assert heights == sorted(heights) and len(set(heights)) == 3  # down the page
    ends = line.split("H")[-1].split(" ")[0]
    assert float(ends) == 330.0  # it stays to the last trial


def test_a_trial_that_diverged_does_not_flatten_the_others(tmp_path: Path) -> None:
    losses = [2.4, 2.3, 2.5, 2.35, 2.2, 4_000.0, 2.45, 2.31]
    history = [trial(n, x) for n, x in enumerate(losses)]
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
    section = found(with_search(tmp_path, configured_loss=default))
    assert section.sentence.startswith(
        "The lowest validation loss is 2.300, with alpha 0.2500, beta 0.2000, temperature 0.7000"
    )
    assert section.sentence.endswith(end)
    assert section.has_configured is (default is not None)


def test_a_first_trial_that_diverged_stays_in_the_drawing(tmp_path: Path) -> None:
    losses = [4_000.0, 2.4, 2.3, 2.5, 2.35, 2.2, 2.45, 2.31]
    history = [trial(n, x) for n, x in enumerate(losses)]
    svg = found(with_search(tmp_path, history=history)).svg
    path = svg.split('class="line best" d="M')[1].split('"')[0]
    assert 0 < float(path.split(" ")[0].split(",")[1]) < 170


def test_reads_what_the_search_writes(tmp_path: Path) -> None:
    drawn = [
        Parameters(alpha=0.5, beta=0.2, temperature=2.0, learning_rate=rate)
        for rate in (1e-4, 2e-4)
    ]
    records = [
        TrialRecord(0, "finished", drawn[0], ((10, 2.5), (20, 2.4)), 3.0),
        TrialRecord(1, "diverged", drawn[1], (), 1.0),
    ]
    run = made_trained_run(
        str(tmp_path), change={"search": _figures(records, records[0], list(drawn[0].model_dump()))}
    )
    section = found(run)
    assert (section.complete, section.pruned, section.failed) == (1, 0, 1)
    assert section.has_configured and section.parameters == list(drawn[0].model_dump())
    assert section.sentence.startswith("The lowest validation loss is 2.400, with ")


def test_many_trials_make_no_large_page(tmp_path: Path) -> None:
    history = [trial(n, 2 + n % 17 / 10) | {"alpha": n / 500} for n in range(500)]
    run = with_search(tmp_path, history=history)
    assert len(found(run).ranked) == 30
    page(run)
    assert run.storage.local_path("report.html").stat().st_size < 300_000


def test_one_trial_is_a_search_too(tmp_path: Path) -> None:
    section = found(with_search(tmp_path, history=HISTORY[:1], configured_loss=None))
    assert section.complete == 1 and section.svg.count('class="mark trial"') == 1


@pytest.mark.parametrize("history", [None, [], [HISTORY[3]]])
def test_without_a_trial_that_has_a_loss_there_is_no_section(tmp_path: Path, history: Any) -> None:
    run = with_search(tmp_path, history=history)
    assert read(ReportReader(run.storage.root)) is None
    assert page(run).tags


def test_hostile_parameters_stay_texts(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b"
    history = [trial(0, 2.0) | {"status": hostile, hostile: hostile}]
    shown = page(with_search(tmp_path, history=history, best_parameters={hostile: hostile}))
    assert "script" not in shown.names and "\x1b" not in shown.text
    assert shown.text.count("<script>alert(1)</script>") == 5


def test_it_says_how_the_control_was_tuned(tmp_path: Path) -> None:
    untuned = page(made_trained_run(str(tmp_path / "untuned"))).text
    assert "had no search of its own, so the comparison with it favours distillation" in untuned


def test_the_controls_search_is_told() -> None:
    found = {
        "history": [trial(n, 3.0 - n / 10) for n in range(5)],
        "best_loss": 2.6,
        "best_parameters": {"learning_rate": 1e-4},
        "configured_loss": 3.0,
    }
    made: dict[str, Any] = {"train-alone": {"steps": 1}, "search-alone": found}
    told = _control(SimpleNamespace(made_by=made.get), 5)
    assert told is not None and told.startswith(
        "The student that is trained alone got as many trials for its learning rate. The lowest"
    )
    assert "got 5 trials" in str(_control(SimpleNamespace(made_by=made.get), 6))
    assert _control(SimpleNamespace(made_by={}.get), 5) is None
