"""The job `prompt_retrieval` through the command: from prompts and queries to the verdict."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from support.command import InProcess
from support.tiny_retrieval import DEMO, make, rows_of

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.models import packaged
from ray_pipeline.stages.retrieval.split import SplitFamilies

pytestmark = pytest.mark.skipif(
    not packaged.is_fetched("all-minilm-l6-v2"), reason="model not fetched"
)


@pytest.fixture(scope="module")
def calm(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of an undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    done = InProcess(folder, ray_cluster)("run", make(folder))
    assert done.code == 0, done.text
    return folder / "run"


def test_from_prompts_to_figures(calm: Path) -> None:
    ledger = json.loads((calm / "ledger.json").read_text())
    for stage in ledger["stages"]:
        left = stage["kept"] + stage["dropped"] + stage["failed"]
        assert stage["rows_in"] + stage["created"] == left
    with (calm / "exports/prompt_evaluation_dataset.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) > 300
    result = json.loads((calm / "retrieval/baselines.json").read_text())
    text = result["views"]["text"]["retrievers"]
    assert set(text) == {"bm25", "word-vectors", "minilm", "bm25+minilm", "tag-matcher"}
    # Queries of the kinds detail and paraphrase have no word of a tag.
    assert text["tag-matcher"]["by_kind"]["detail"]["mrr@10"]["mean"] == 0
    assert text["minilm"]["metrics"]["mrr@10"]["mean"] > 0.2
    for one in text.values():
        assert one["metrics"]["mrr@10"]["mean"] >= one["metrics"]["precision@1"]["mean"]
    report = (calm / "exports/evaluation_report.md").read_text()
    assert "On the text alone" in report and "With the tags" in report
    page = (calm / "report.html").read_text()
    assert "Retrievers" in page and "the leak check found nothing" in page


def test_before_and_after_are_of_the_same_queries(calm: Path) -> None:
    result = json.loads((calm / "retrieval/comparison.json").read_text())
    assert list(result["models"]) == ["before", "retriever-1", "retriever-1-shuffled"]
    before, after = (result["models"][name] for name in ("before", "retriever-1"))
    assert before["text"]["queries"] == after["text"]["queries"]
    baselines = json.loads((calm / "retrieval/baselines.json").read_text())
    stored = baselines["views"]["text"]["retrievers"]["minilm"]["metrics"]["map"]["mean"]
    assert before["text"]["metrics"]["map"]["mean"] == pytest.approx(stored, abs=1e-4)
    # Four questions, of which one is there twice with the same answer.
    assert result["unrelated"] == 4 and before["unrelated"]["mrr@10"]["number"] == 4
    assert set(before["cut"]) == {"64"}
    gain = after["text"]["gains"]["mrr@10"]
    means = [one["text"]["metrics"]["mrr@10"]["mean"] for one in (before, after)]
    assert gain["mean"] == pytest.approx(means[1] - means[0])
    with (calm / "exports/query_differences.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == gain["queries"]
    assert result["verdict"] in (calm / "exports/comparison.md").read_text()
    assert "Fine-tuning" in (calm / "report.html").read_text()
    card = (calm / "models/retriever-1/README.md").read_text()
    assert (
        "Limits" in card
        and "do not use it" in (calm / "models/retriever-1-shuffled/README.md").read_text()
    )


def test_every_query_of_the_sample_is_on_the_side_of_its_wording() -> None:
    held_out = yaml.safe_load(DEMO.read_text())["stages"]["split-families"]["held_out"]
    queries = rows_of("writing_queries.jsonl")
    names = ("genre", "theme", "wording")
    columns = {name: pa.array([row[name] for row in queries], pa.string()) for name in names}
    columns["source_name"] = pa.array(["queries"] * len(queries), pa.string())
    rows = with_envelope(pa.table(columns), [str(number) for number in range(len(queries))])
    found = SplitFamilies().bound({"held_out": held_out}).apply(rows, Counter())
    assert set(found["status"].to_pylist()) == {"kept"}
    sides = Counter(found["split"].to_pylist())
    assert sides["test"] >= 200 and sides["train"] >= 532


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    command = InProcess(tmp_path)
    config = make(tmp_path)
    for words, assignment in {
        "nothing is held out": "stages.split-families.held_out={}",
        "no model 'mnilm' in stages.embed.models; did you mean 'minilm'?": (
            "stages.write-golden.mine_with=mnilm"
        ),
        "genre": "sources.corpus.columns={genre: Gattung}",
    }.items():
        refused = command("run", config, "--set", assignment)
        assert refused.code == 2, refused.text
        assert words in " ".join(refused.err.split()), refused.err
