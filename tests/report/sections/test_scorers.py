from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.test_report import HOSTILE, page
from scipy.stats import spearmanr
from support.made_run import made_run
from support.made_scored_run import made_scored_run, made_scores

from ray_pipeline.report.sections import scorers as module
from ray_pipeline.report.sections.scorers import Scorers, ranked, scorers, spearman
from ray_pipeline.report.sections.subsets import subset_lines
from ray_pipeline.rundir.reader import RunReader


def found(folder: Path, **options: Any) -> Scorers:
    section = scorers(RunReader(made_scored_run(str(folder), **options).storage.root))
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


def test_ranks_of_ties_and_what_has_no_correlation() -> None:
    assert ranked(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]
    rising = np.arange(5.0)
    assert spearman(rising, -(rising**3)) == pytest.approx(-1)
    assert spearman(rising, np.ones(5)) is None
    assert spearman(rising[:2], rising[:2]) is None


def test_rows_on_which_scorers_part(tmp_path: Path) -> None:
    quality, ifd = np.linspace(0, 1, 40), np.linspace(0, 1, 40)
    ifd[[0, 39]] = ifd[[39, 0]]  # the worst by quality is the best by ifd, and the other way round
    section = found(tmp_path, rows=40, scores={"quality": quality, "ifd": ifd}, unit_rows=7)
    ((pair, rows),) = section.partings
    assert (pair.first, pair.second) == ("quality", "ifd")
    first, last = rows
    assert (first.first.value, first.first.above, first.second.above) == (1, 1, 0)
    assert dict(first.texts)["instruction"] == "Explain the number 39."
    assert (last.first.above, last.second.above) == (0, 1)
    assert dict(last.texts)["instruction"] == "Explain the number 0."
    # Scorers that agree part nowhere.
    same = {"quality": quality, "ifd": quality}
    assert found(tmp_path / "same", rows=40, scores=same).partings == []


def test_scores_that_are_null_or_no_numbers_are_left_out(tmp_path: Path) -> None:
    nothing = [None] * 20
    broken = [float("nan"), float("inf"), 0.5, *[0.25] * 17]
    section = found(tmp_path, rows=20, scores={"quality": broken, "ifd": nothing})
    assert [(score.name, score.rows) for score in section.scores] == [("quality", 18)]
    assert section.matrix == [] and section.partings == []
    run = made_scored_run(str(tmp_path / "none"), rows=20, scores={"ifd": nothing})
    assert scorers(RunReader(run.storage.root)) is None


def test_only_the_heuristics(tmp_path: Path) -> None:
    parts = {n: v for n, v in made_scores(50).items() if n in module.PARTS}
    section = found(tmp_path, rows=50, scores=parts)
    assert len(section.pairs) == 6 and section.part_pairs == []
    assert len(section.partings) == 6


def test_a_column_of_such_a_name_in_another_run_is_none_of_ours(tmp_path: Path) -> None:
    run = made_scored_run(str(tmp_path / "a"), rows=20, stages=["tidy"])
    assert scorers(RunReader(run.storage.root)) is None
    words = {"quality": ["good"] * 20}
    run = made_scored_run(str(tmp_path / "b"), rows=20, scores=words)
    assert scorers(RunReader(run.storage.root)) is None
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
    text = " ".join(page(made_scored_run(str(tmp_path / "page"), unit_rows=20)).text.split())
    assert "Measured on 100 of 300 rows, drawn by their ids." in text


def test_the_page_shows_it_all_and_stays_small(tmp_path: Path) -> None:
    run = made_scored_run(str(tmp_path), rows=2_000, unit_rows=512)
    text = " ".join(page(run).text.split())
    assert "How the scorers agree" in text and "Where they part most" in text
    assert "The other 22 pairs" in text
    assert "judge_score over quality" in text
    assert "(500 rows)" in text  # the judge saw a quarter
    assert (tmp_path / "report.html").stat().st_size < 400_000


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    texts = [HOSTILE[i % len(HOSTILE)] + "x" * 3_000 for i in range(60)]
    read = page(made_scored_run(str(tmp_path), rows=60, texts=texts))
    assert not {"script", "img", "b"} & {tag for tag, _ in read.tags}
    assert "x" * 500 not in read.text and "\x1b" not in read.text


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
    high, control, odd = subset_lines(RunReader(run.storage.root))
    assert (high.name, high.is_control, high.rows, high.tokens) == ("high", False, 100, 12_345)
    assert (high.lowest, high.mean, high.highest) == (0.61, 0.7, 0.93)
    assert high.is_smaller and len(high.sources) == 5 and high.other_sources == 2
    assert control.is_control and control.lowest is None and control.sources == []
    assert control.tokens == 11_000 and not control.is_smaller
    assert (odd.rows, odd.tokens, odd.lowest) == (None, None, None)
    read = page(run)
    text = " ".join(read.text.split())
    assert "dolly 60, gsm8k 30, s0 2, s1 2, s2 2, 2 more" in text
    assert "100all there are12,3450.61000.70000.9300" in text  # cells follow each other
    assert "<b>odd</b>" in text and "b" not in {tag for tag, _ in read.tags}


@pytest.mark.parametrize("figures", [{}, {"subsets": None}, {"subsets": []}])
def test_without_subsets_there_is_no_table(tmp_path: Path, figures: Any) -> None:
    run = made_scored_run(str(tmp_path), rows=20, metrics={"write-subsets": figures})
    assert "Subsets" not in page(run).text
