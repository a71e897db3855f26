from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.html_page import page
from support.made_run import MadeRun
from support.made_trained_run import QUALITY, made_trained_run, metrics

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.evaluation import Evaluation, read, verdict


def with_models(path: Path, models: dict[str, Any], **more: Any) -> MadeRun:
    return made_trained_run(str(path), change={"evaluate": {"models": models, "rows": 16, **more}})


def found(run: MadeRun) -> Evaluation:
    section = read(ReportReader(run.storage.root))
    assert section is not None
    return section


MODELS: dict[str, dict[str, Any]] = metrics(60)["evaluate"]["models"]


def test_the_table_has_every_model_and_figure(tmp_path: Path) -> None:
    section = found(made_trained_run(str(tmp_path)))
    assert [line.label for line in section.models] == [
        "teacher",
        "student before training",
        "student, distilled",
        "student, trained alone",
    ]
    texts = {line.label: [cell.text for cell in line.quality] for line in section.models}
    assert texts["teacher"] == ["2.125", "30.00", "0.5000", "0.7500", "50 %"]
    assert texts["student before training"][0] == "99,000"
    student = section.models[2]
    assert [cell.text for cell in student.cost] == ["62.0 M", "248 MB", "20.0 ms", "200.0"]
    assert [cell.times_teacher for cell in student.cost] == ["0.46 ×", "0.46 ×", "0.25 ×", "4.00 ×"]
    assert all(cell.times_teacher is None for cell in section.models[0].cost)


def test_the_page_says_what_was_measured_on_what(tmp_path: Path) -> None:
    text = page(with_models(tmp_path, MODELS, test_rows=40)).words
    assert "Answers to 16 rows, perplexity on 40." in text
    assert "perplexity ↓" in text and "ROUGE-L ↑" in text
    assert "nrefs:1|case:mixed|tok:13a" in text


def test_the_verdict_names_what_distilling_gained_lost_and_left(tmp_path: Path) -> None:
    assert found(made_trained_run(str(tmp_path))).verdict == (
        "Over the same student trained alone, distilling gained in perplexity (9.500 against "
        "12.20), BLEU (10.25 against 8.50) and sentence BLEU (0.2000 against 0.1500), lost in "
        "exact match (6.2 % against 12.5 %) and changed nothing in ROUGE-L (0.3300)."
    )


@pytest.mark.parametrize(
    ("distilled", "alone", "sentence"),
    [
        (
            {"perplexity": 9.0, "bleu": 5.0},
            {"perplexity": 8.0, "bleu": 6.0},
            "Over the same student trained alone, distilling lost in perplexity (9.000 against "
            "8.000) and BLEU (5.00 against 6.00).",
        ),
        (
            {"perplexity": 8.0},
            {"perplexity": 9.0, "bleu": 6.0},
            "Over the same student trained alone, distilling gained in perplexity (8.000 against "
            "9.000).",
        ),
        (
            # What reads the same is called the same.
            {"perplexity": 8.00001, "rouge_l": 0.41},
            {"perplexity": 8.00002, "rouge_l": 0.41},
            "Distilled and trained alone, the student measures the same: perplexity (8.000) and "
            "ROUGE-L (0.4100).",
        ),
        ({"perplexity": None}, {"perplexity": 3.0}, None),
        ({}, {}, None),
        (None, {"perplexity": 3.0}, None),
        ({"perplexity": 3.0}, "broken", None),
    ],
)
def test_verdicts(distilled: Any, alone: Any, sentence: str | None) -> None:
    assert verdict(distilled, alone) == sentence


def test_the_verdict_turns_with_the_figures() -> None:
    # Each measure, better and worse: the sentence must take the right side.
    for key, better, worse in [
        ("perplexity", 2.0, 3.0),
        ("bleu", 3.0, 2.0),
        ("sentence_bleu", 0.3, 0.2),
        ("rouge_l", 0.3, 0.2),
        ("exact_match", 0.3, 0.2),
    ]:
        assert "distilling gained in" in (verdict({key: better}, {key: worse}) or "")
        assert "distilling lost in" in (verdict({key: worse}, {key: better}) or "")


def test_columns_without_a_figure_are_left_out(tmp_path: Path) -> None:
    models = {name: {"perplexity": values[0]} for name, values in QUALITY.items()}
    models["student-before"] = {"perplexity": None}  # infinite: JSON has no number for it
    section = found(with_models(tmp_path, models))
    assert [metric.key for metric in section.quality] == ["perplexity"]
    assert not section.cost and section.signature == ""
    assert [line.quality[0].text for line in section.models] == ["2.125", "–", "9.500", "12.20"]


def test_without_a_teacher_nothing_is_measured_by_it(tmp_path: Path) -> None:
    models = {name: MODELS[name] for name in ("student", "student-alone")}
    section = found(with_models(tmp_path, models))
    assert all(cell.times_teacher is None for line in section.models for cell in line.cost)
    assert section.verdict is not None


@pytest.mark.parametrize("models", [None, [], {}, {"student": 5}, "x"])
def test_what_is_no_evaluation_has_no_section(tmp_path: Path, models: Any) -> None:
    run = with_models(tmp_path, models)
    assert read(ReportReader(run.storage.root)) is None
    ids = page(run).sections
    assert "evaluation" not in ids and "training" in ids


def test_hostile_model_names_stay_texts(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b"
    models = {
        hostile: {**MODELS["student"], "bleu_signature": hostile},
        "teacher": MODELS["teacher"],
    }
    run = with_models(tmp_path, models)
    assert found(run).models[0].label == "teacher"
    shown = page(run)
    assert "script" not in shown.names and "\x1b" not in shown.text
    assert "<script>alert(1)</script>" in shown.text


def difference(metric: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    names = {"model": "student", "than": "student-alone", "metric": metric}
    return {**names, "value": value, "low": low, "high": high, "questions": 14}


def test_a_difference_whose_interval_includes_none_is_not_called_a_gain(tmp_path: Path) -> None:
    run = with_models(
        tmp_path,
        MODELS,
        questions=14,
        differences=[
            difference("perplexity", 0.7787, 0.7, 0.86),
            difference("bleu", 1.75, -0.5, 4.0),
            difference("sentence_bleu", 0.05, None, None),
            difference("exact_match", -0.0625, -0.1, -0.01),
        ],
    )
    assert found(run).verdict == (
        "Over the same student trained alone, distilling gained in perplexity (9.500 against "
        "12.20; 0.78 ×, 95 % interval 0.70 × to 0.86 ×), lost in exact match (6.2 % against "
        "12.5 %; −0.0625, 95 % interval −0.1000 to −0.0100), made no clear difference in BLEU "
        "(10.25 against 8.50; +1.75, 95 % interval −0.50 to +4.00) and sentence BLEU (0.2000 "
        "against 0.1500) and changed nothing in ROUGE-L (0.3300)."
    )
    assert "Answers to 16 rows, 14 independent questions." in page(run).words


def test_paraphrases_have_a_table_of_their_own(tmp_path: Path) -> None:
    models = {
        name: {**figures, "versions": {"perplexity": 50.0 + place, "bleu": 1.0}}
        for place, (name, figures) in enumerate(MODELS.items())
    }
    run = with_models(tmp_path, models, version_rows=12)
    section = found(run)
    assert [line.quality[0].text for line in section.versions] == [
        f"{50 + list(MODELS).index(name):.2f}"
        for name in ("teacher", "student-before", "student", "student-alone")
    ]
    assert section.models[0].quality[0].text == "2.125"
    assert "asked 12 of these questions in other words" in page(run).words
