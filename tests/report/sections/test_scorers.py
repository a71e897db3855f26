from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from support.html_page import HOSTILE, page
from support.made_run import made_run
from support.made_scored_run import made_scored_run, made_scores

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections import scorers as module
from ray_pipeline.report.sections.scorers import Scorers, spearman


def found(folder: Path, **options: Any) -> Scorers:
    section = module.read(ReportReader(made_scored_run(str(folder), **options).storage.root))
    assert section is not None
    return section


def test_correlations_are_spearmans_over_rows_with_both_scores(tmp_path: Path) -> None:
    section = found(tmp_path)
    assert (section.rows, section.of_rows) == (300, 300)
    values = {n: np.array(v, float) for n, v in made_scores(300).items()}
    pairs = [pair for _, line in section.matrix for pair in line]
    assert len(pairs) == 8 * 7 / 2
    for pair in pairs:
        a, b = values[pair.first], values[pair.second]
        both = ~(np.isnan(a) | np.isnan(b))
        assert pair.rows == both.sum()
        assert pair.correlation == pytest.approx(spearmanr(a[both], b[both]).statistic)


def test_ties_share_their_ranks_and_equal_scores_have_no_correlation() -> None:
    ties = np.array([3.0, 1.0, 3.0, 2.0])
    assert spearman(ties, np.array([3.5, 1.0, 3.5, 2.0])) == pytest.approx(1)
    rising = np.arange(5.0)
    assert spearman(rising, -(rising**3)) == pytest.approx(-1)
    assert spearman(rising, np.ones(5)) is None
    assert spearman(rising[:2], rising[:2]) is None


def test_rows_on_which_scorers_disagree(tmp_path: Path) -> None:
    quality, ifd = np.linspace(0, 1, 40), np.linspace(0, 1, 40)
    ifd[[0, 39]] = ifd[[39, 0]]  # the worst by quality is the best by ifd, and the other way round
    section = found(tmp_path, rows=40, scores={"quality": quality, "ifd": ifd}, unit_rows=7)
    ((pair, rows),) = section.disagreements
    assert (pair.first, pair.second) == ("quality", "ifd")
    first, last = rows
    assert (first.first.value, first.first.above, first.second.above) == (1, 1, 0)
    assert dict(first.texts)["instruction"] == "Explain the number 39."
    assert (last.first.above, last.second.above) == (0, 1)
    assert dict(last.texts)["instruction"] == "Explain the number 0."
    # Scorers with the same ranks disagree on no row.
    same = {"quality": quality, "ifd": quality}
    assert found(tmp_path / "same", rows=40, scores=same).disagreements == []


def test_scores_that_are_null_or_no_numbers_are_left_out(tmp_path: Path) -> None:
    nothing = [None] * 20
    broken = [float("nan"), float("inf"), 0.5, *[0.25] * 17]
    section = found(tmp_path, rows=20, scores={"quality": broken, "ifd": nothing})
    assert [(score.name, score.rows) for score in section.scores] == [("quality", 18)]
    assert section.matrix == [] and section.disagreements == []
    run = made_scored_run(str(tmp_path / "none"), rows=20, scores={"ifd": nothing})
    assert module.read(ReportReader(run.storage.root)) is None


def test_only_the_heuristics(tmp_path: Path) -> None:
    parts = {n: v for n, v in made_scores(50).items() if n in module.PARTS}
    section = found(tmp_path, rows=50, scores=parts)
    assert len(section.pairs) == 6 and section.part_pairs == []
    assert len(section.disagreements) == 6


def test_a_column_of_such_a_name_in_another_run_is_none_of_ours(tmp_path: Path) -> None:
    run = made_scored_run(str(tmp_path / "a"), rows=20, stages=["tidy"])
    assert module.read(ReportReader(run.storage.root)) is None
    words = {"quality": ["good"] * 20}
    run = made_scored_run(str(tmp_path / "b"), rows=20, scores=words)
    assert module.read(ReportReader(run.storage.root)) is None
    assert "How the scorers agree" not in page(made_run(str(tmp_path / "c"))).text


def test_the_sample_is_bounded_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS", 100)
    monkeypatch.setattr(module, "_FEW_UNITS", 5)
    monkeypatch.setattr(module, "_LOOKED_AT", 150)
    section = found(tmp_path, unit_rows=20)
    assert (section.rows, section.of_rows) == (100, 300)
    assert found(tmp_path / "again", unit_rows=20) == section
    text = page(made_scored_run(str(tmp_path / "page"), unit_rows=20)).words
    assert "Measured on 100 of 300 rows, chosen by their ids." in text


def test_the_page_shows_it_all_and_stays_small(tmp_path: Path) -> None:
    run = made_scored_run(str(tmp_path), rows=2_000, unit_rows=512)
    text = page(run).words
    assert "How the scorers agree" in text and "Where they disagree most" in text
    assert "The other 22 pairs" in text
    assert "judge_score over quality" in text
    assert "(500 rows)" in text  # the judge saw a quarter
    assert (tmp_path / "report.html").stat().st_size < 400_000


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    texts = [HOSTILE[i % len(HOSTILE)] + "x" * 3_000 for i in range(60)]
    shown = page(made_scored_run(str(tmp_path), rows=60, texts=texts))
    assert not {"script", "img", "b"} & shown.names
    assert "x" * 500 not in shown.text and "\x1b" not in shown.text
