from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from support.html_page import page
from support.made_run import MadeRun, made_run
from support.made_trained_run import (
    ENDS,
    TRAININGS,
    folder,
    made_trained_run,
    metrics,
    write_curve,
)

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.training import Trainings, read
from ray_pipeline.rundir.ledger import Done

SECTIONS = {"search", "training", "evaluation", "samples"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return made_trained_run(str(tmp_path_factory.mktemp("trained")))


def section(run: MadeRun) -> Trainings:
    found = read(ReportReader(run.storage.root))
    assert found is not None
    return found


def sections(run: MadeRun) -> set[str | None]:
    return set(page(run).sections)


def test_the_page_has_all_parts_and_stays_small(run: MadeRun) -> None:
    assert sections(run) >= SECTIONS
    assert run.storage.local_path("report.html").stat().st_size < 250_000


def test_a_run_that_trains_nothing_has_none_of_them(tmp_path: Path) -> None:
    assert not sections(made_run(str(tmp_path))) & SECTIONS


def test_the_figures_are_those_of_the_metrics(run: MadeRun) -> None:
    finished = dict(section(run).finished)
    assert list(finished) == list(TRAININGS)
    for stage, figures in finished.items():
        assert figures == metrics(60)[stage]
    text = page(run).words
    assert "train-alone 1,590 106,840 5,580 77.8 % 60 3 2.125 2.500 60 epochs" in text
    assert "gave 7 rows to train on, 1 to validate, 2 to test" in text


def test_curves_have_every_step_and_evaluation(run: MadeRun) -> None:
    by_stage = {curve.stage: curve for curve in section(run).curves}
    assert list(by_stage) == list(TRAININGS)
    for stage, curve in by_stage.items():
        svg = curve.main.svg
        (learned,) = [s for s in svg.split("<path ") if s.startswith('class="line learned"')]
        assert learned.count("L") == 59
        assert svg.count('class="mark validated"') == 6
        assert curve.best == (60, pytest.approx(ENDS[stage]))
        assert (curve.steps, curve.total_steps, curve.steps_a_point) == (60, 60, 1)


def test_only_the_distilled_student_has_a_loss_of_its_own(run: MadeRun) -> None:
    labels = {
        curve.stage: [figure.label for figure in curve.beside] for curve in section(run).curves
    }
    assert labels["train-alone"] == ["gradient norm", "learning rate"]
    assert labels["distil"][:2] == ["loss: α·CE + β·T²·KL", "KL(teacher ‖ student)"]
    assert labels["distil"][2:] == labels["train-teacher"] == labels["train-alone"]


def test_students_are_compared_on_one_axis(run: MadeRun) -> None:
    found = section(run).comparison
    assert found is not None
    assert (found.distilled, found.alone) == (pytest.approx(2.25), pytest.approx(2.5))
    assert found.teacher == ENDS["train-teacher"]
    assert found.svg.count("<svg") == 1
    assert 'class="line distilled"' in found.svg and 'class="line control"' in found.svg


@pytest.mark.parametrize(("every", "until"), [(10, "distil"), (60, "train-alone")])
def test_nothing_is_compared_with_one_student_or_one_evaluation(
    tmp_path: Path, every: int, until: str
) -> None:
    assert section(made_trained_run(str(tmp_path), every=every, until=until)).comparison is None


def test_long_trainings_are_drawn_as_means_and_short_ones_are_drawn(tmp_path: Path) -> None:
    long = made_trained_run(str(tmp_path / "long"), steps=4_000, every=500)
    found = section(long)
    assert [curve.steps_a_point for curve in found.curves] == [27] * 3
    assert "mean of 27 steps" in page(long).text
    assert long.storage.local_path("report.html").stat().st_size < 300_000
    assert "ring" in section(made_trained_run(str(tmp_path / "one"), 1, 1)).curves[0].main.svg


@pytest.mark.parametrize("steps", [9, 5_000])
def test_without_validation_there_is_no_ring(tmp_path: Path, steps: int) -> None:
    run = made_trained_run(str(tmp_path), steps=steps, every=10_000)
    assert all(curve.best is None for curve in section(run).curves)
    assert "the ring marks" not in page(run).text


def test_truncated_answers_are_counted(run: MadeRun, tmp_path: Path) -> None:
    truncated = "3 of 10 answers were truncated to keep their texts within 128 tokens; 41 tokens"
    assert truncated in page(run).words
    clean = made_trained_run(str(tmp_path))
    clean.accounts["tokenise"].counts = {}  # counters at nothing are not in a ledger
    assert "No answer was truncated: their texts keep within 128 tokens" in page(clean.save()).text


def test_a_teacher_that_is_taken_as_it_is(tmp_path: Path) -> None:
    as_it_is = {"train-teacher": {"stopped": "not trained", "steps": 0}}
    run = made_trained_run(str(tmp_path), change=as_it_is)
    run.storage.delete_folder(f"{folder('train-teacher')}/work")
    found = section(run)
    assert [curve.stage for curve in found.curves] == ["distil", "train-alone"]
    assert dict(found.finished)["train-teacher"]["stopped"] == "not trained"
    assert "not trained" in page(run).text
    assert found.comparison is not None and found.comparison.teacher is None


@pytest.mark.parametrize("value", [None, "NaN", True, [1], {}])
def test_figures_that_are_no_numbers_are_dashes(tmp_path: Path, value: object) -> None:
    broken = dict.fromkeys(metrics(60)["distil"], value)
    run = made_trained_run(str(tmp_path), change={"distil": broken})
    figures = dict(section(run).finished)["distil"]
    assert all(figures[name] is None for name in figures if name != "stopped")
    assert page(run).tags


def test_losses_that_are_no_numbers_leave_gaps(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path))
    path = f"{folder('distil')}/work/curve.jsonl"
    lines = [orjson.loads(line) for line in (run.storage.read_bytes(path) or b"").splitlines()]
    for line in lines[:20]:
        line |= dict.fromkeys(line.keys() - {"step"})
    run.storage.write_bytes(path, b"\n".join(map(orjson.dumps, lines)))
    (found,) = [curve for curve in section(run).curves if curve.stage == "distil"]
    assert "nan" not in found.main.svg.lower()
    assert found.best == (60, pytest.approx(2.25))


def test_missing_files_leave_out_what_they_hold(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path))
    for stage in TRAININGS:
        run.storage.delete(f"{folder(stage)}/work/curve.jsonl")
    found = section(run)
    assert not found.curves and found.comparison is None and len(found.finished) == 3
    run.storage.delete("exports/validation_results.csv")
    assert sections(run) >= SECTIONS - {"samples"}
    run.storage.delete("metrics.json")
    assert not sections(run) & SECTIONS


def test_figures_of_an_earlier_run_are_not_this_runs(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path))
    del run.ledger.entries[-3:]  # until: teacher-log-probs
    found = section(run.save())
    assert [stage for stage, _ in found.finished] == ["train-teacher"]
    assert [curve.stage for curve in found.curves] == ["train-teacher"]
    assert "evaluation" not in sections(run) and "samples" not in sections(run)


def test_a_training_that_was_stopped_shows_how_far_it_came(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path), until="teacher-log-probs")
    write_curve(run, "distil", 30, 10, total=60)
    run.save("interrupted", "stopped by the user")
    found = section(run)
    assert [stage for stage, _ in found.finished] == ["train-teacher"]
    assert [curve.is_finished for curve in found.curves] == [True, False]
    assert "not finished: 30 of 60 steps" in page(run).text


def test_a_curve_is_not_under_way_before_the_stages_in_front_of_it(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path), until="teacher-log-probs")
    write_curve(run, "distil", 60, 10)
    index = run.ledger.entries[-1].index
    where = f"stages/{index:02d}-teacher-log-probs"
    Done("of another run", "", "", 2, []).save(run.storage, where)
    assert [curve.stage for curve in section(run.save("running")).curves] == ["train-teacher"]
    run.storage.delete(f"{where}/done.json")
    assert [curve.stage for curve in section(run).curves] == ["train-teacher"]


def test_hostile_figures_stay_texts(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m"
    change = {name: {**metrics(60)[name], "stopped": hostile} for name in TRAININGS}
    found = page(made_trained_run(str(tmp_path), change=change))
    assert "script" not in found.names
    assert found.text.count("<script>alert(1)</script>") == 3 and "\x1b" not in found.text


def test_a_ledger_entry_without_a_folder_does_no_harm(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path))
    for entry in run.ledger.entries[4:]:
        run.storage.delete_folder(f"stages/{entry.index:02d}-{entry.account.name}")
    assert not section(run).curves
    assert page(run).tags
