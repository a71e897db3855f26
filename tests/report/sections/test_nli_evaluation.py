from __future__ import annotations

from pathlib import Path
from typing import Any

from support.html_page import page
from support.made_run import MadeRun, made_run

from ray_pipeline.evaluate.classification import LabelledRows, vote_calibration
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.nli_evaluation import read

LABELS = ("yes", "no")
TRUTH = ["yes", "yes", "no", "no"]
SAID: dict[str, list[str | None]] = {
    "base": ["yes", None, "yes", "no"],
    "tuned-labels": ["no", "yes", "no", "no"],
    "majority": ["yes"] * 4,
}
PREDICTIONS = """split,row_id,premise,hypothesis,label,base,tuned-labels
test,r0,p <b>0</b>,h0,yes,yes,no
test,r1,p1,h1,yes,,yes
test,r2,p2,h2,no,yes,no
test,r3,p3,h3,no,no,no
"""


def figures() -> dict[str, Any]:
    rows = LabelledRows(TRUTH, LABELS, ["a", "a", "b", "c"])
    return {
        "labels": list(LABELS),
        "train_pairs": 1234,
        "splits": {
            "test": {
                "rows": 4,
                "groups": 3,
                "models": {name: rows.figures(said).to_json() for name, said in SAID.items()},
                "comparisons": [
                    {
                        "model": "tuned-labels",
                        "than": "base",
                        **rows.compare(SAID["tuned-labels"], SAID["base"]),
                    }
                ],
                "by_kind": {"trap": {"rows": 2, "accuracy": dict.fromkeys(SAID, 0.5)}},
                "thoughts": {
                    "rows": 4,
                    "models": {"thoughts": rows.figures(SAID["base"]).to_json()},
                    "comparisons": [],
                    "vote": vote_calibration([1.0], [True]),
                },
            }
        },
    }


def run_with(folder: Path, found: dict[str, Any] | None) -> MadeRun:
    run = made_run(str(folder))
    run.add_artifact_stage("evaluate-pairs", found)
    run.storage.write_bytes("exports/nli_predictions.csv", PREDICTIONS.encode())
    return run.save()


def test_models_stand_beside_controls_best_first(tmp_path: Path) -> None:
    run = run_with(tmp_path, figures())
    found = read(ReportReader(run.storage.root))
    assert found is not None
    (split,) = found.splits
    assert [line.name for line in split.models] == ["tuned-labels", "base", "majority"]
    assert split.models[0].accuracy.text == "0.750"
    assert split.models[1].unparsable == "25.0 %"
    (comparison,) = split.comparisons
    assert (comparison.alone, comparison.accuracy.text) == ("2 : 1", "+0.250")
    matrix = {each.name: dict(each.rows) for each in split.confusions}
    assert matrix["base"] == {"yes": [1, 0, 1], "no": [1, 1, 0]}
    shown = page(run)
    assert "nli-evaluation" in shown.sections
    assert "1,234 training pairs" in shown.words
    assert "Brier score of the vote's share: 0.000" in shown.words


def test_examples_are_pairs_that_tuning_fixed_or_broke(tmp_path: Path) -> None:
    run = run_with(tmp_path, figures())
    found = read(ReportReader(run.storage.root))
    assert found is not None and found.tuned == "tuned-labels"
    assert [each.premise for each in found.fixed] == ["p1", "p2"]
    assert [(each.premise, each.after) for each in found.broken] == [("p <b>0</b>", "no")]
    assert "p <b>0</b>" in page(run).text  # escaped


def test_a_run_that_measured_no_pairs_has_no_section(tmp_path: Path) -> None:
    assert read(ReportReader(made_run(str(tmp_path)).storage.root)) is None
