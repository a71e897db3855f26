from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.html_page import page
from support.made_cells import record, records
from support.made_run import MadeRun, made_run
from support.made_tradeoff_run import made_tradeoff_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.tradeoff import Tradeoff, read


def found(run: MadeRun) -> Tradeoff:
    section = read(ReportReader(run.storage.root))
    assert section is not None
    return section


def test_every_subset_and_control_has_its_line_and_its_marks(tmp_path: Path) -> None:
    run = made_tradeoff_run(str(tmp_path))
    section = found(run)
    assert [len(mode.lines) for mode in section.modes] == [6, 6]
    (epochs, _) = section.modes
    assert epochs.sizes is not None and epochs.curves is not None
    assert (
        epochs.sizes.count('class="mark best"') == epochs.sizes.count('class="mark control"') == 3
    )
    assert epochs.sizes.count(" bar") == 6  # an interval each
    assert (
        epochs.curves.count('class="line s0"') == epochs.curves.count('class="line s0 random"') == 1
    )
    assert ">10k</text>" in epochs.sizes and ">1M</text>" in epochs.sizes
    line = epochs.lines[0]
    assert line.name == "ultra_high_10k" and " to " in line.perplexity.interval
    shown = page(run).text
    for words in ("Quality against quantity", "quantity matters more", "quality helps", "3 sizes"):
        assert words in shown


def test_a_target_that_is_not_reached_is_said_to_be_so(tmp_path: Path) -> None:
    (mode, _) = found(made_tradeoff_run(str(tmp_path), target=math.exp(2.6))).modes
    few, *_, most = [line for line in mode.lines if not line.control]
    assert few.time_to_target.text == few.tokens_to_target.text == "not reached"
    assert most.time_to_target.text != "not reached" and mode.is_configured


def test_a_difference_around_nothing_keeps_its_lower_end(tmp_path: Path) -> None:
    made = [
        record("few", seed, 3.0 + 0.01 * seed * (1 if control else -1) * (seed - 2), 100, control)
        for seed in (1, 2, 3)
        for control in (False, True)
    ]
    (mode,) = found(made_tradeoff_run(str(tmp_path), made)).modes
    (line,) = mode.controls
    assert line.verdict.text == "no significant difference"
    low, _, high = line.difference.interval.split()
    assert float(low) < 0 < float(high)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param([record()], id="one cell"),
        pytest.param([record(loss=None)], id="diverged"),
        pytest.param([record(loss=900.0, curve=[])], id="beyond measure"),
        pytest.param(records(seeds=1, controls=False), id="one seed, no controls"),
        pytest.param([record(rows=0)], id="no rows"),
    ],
)
def test_poor_experiments_have_a_page(tmp_path: Path, made: list[dict[str, Any]]) -> None:
    assert "Quality against quantity" in page(made_tradeoff_run(str(tmp_path), made)).text


def test_a_training_that_diverged_is_told(tmp_path: Path) -> None:
    made = records()
    made[0]["test_loss"] = None
    run = made_tradeoff_run(str(tmp_path), made)
    assert found(run).modes[0].lines[0].seeds == "2, 1 diverged"
    assert "1 training diverged and is left out" in page(run).text


def test_without_an_analysis_there_is_no_section(tmp_path: Path) -> None:
    assert read(ReportReader(made_run(str(tmp_path / "a")).storage.root)) is None
    run = made_tradeoff_run(str(tmp_path / "b"))
    for raw in (b"", b"{", b"[]", b"{}"):
        run.storage.write_bytes("experiment/analysis.json", raw)
        assert read(ReportReader(run.storage.root)) is None
        assert "Quality against quantity" not in page(run).text


def test_updates_tokens_and_schedule_are_beside_every_comparison(tmp_path: Path) -> None:
    schedule = {"schedule": "linear", "warmup_steps": 3}
    made = [
        record(
            "few", seed, 3.0 + seed / 100 + control, 100, control, "tokens", steps=steps, **schedule
        )
        for seed in (1, 2, 3)
        for control, steps in ((False, 33), (True, 52))
    ]
    run = made_tradeoff_run(str(tmp_path / "unequal"), made)
    (mode,) = found(run).modes
    (line,) = mode.controls
    assert (line.updates, line.tokens) == (["33", "52"], ["5,000,000"])
    assert line.schedules == ["peak 0.0002, warm-up 3, linear"]
    assert (line.verdict.text, line.verdict.interval) == ("not compared", "33 against 52 updates")
    shown = page(run).text
    assert "not compared with them: 33 against 52 updates" in shown
    for one in made:
        one["steps"] = 33
    (mode,) = found(made_tradeoff_run(str(tmp_path / "equal"), made)).modes
    assert mode.controls[0].updates == ["33"] and not mode.is_unchecked
    assert mode.controls[0].verdict.text == "quality helps"


def test_an_analysis_of_an_earlier_version_is_shown_with_a_warning(tmp_path: Path) -> None:
    run = made_tradeoff_run(str(tmp_path))
    analysis = orjson.loads(run.storage.read_bytes("experiment/analysis.json") or b"")
    for mode in analysis["modes"].values():
        for one in mode["controls"]:
            for name in ("effort", "control_effort", "differs", "why", "draws", "p_value"):
                one.pop(name, None)
        for one in mode["subsets"]:
            one.pop("effort", None)
    run.storage.write_bytes("experiment/analysis.json", orjson.dumps(analysis))
    assert found(run).modes[0].is_unchecked
    assert "An earlier version made this analysis" in page(run).text
