"""Measuring, fine-tuning and comparing on stored rows, with a tiny model and without a cluster."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.golden_rows import golden_rows, write_stage
from support.tiny_retriever import tiny_retriever

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.report.page import _templates
from ray_pipeline.report.sections import retriever_tuning, retrievers
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.retrieval.baselines import MeasureRetrievers
from ray_pipeline.stages.retrieval.compare import CompareRetrievers
from ray_pipeline.stages.retrieval.embed import EmbedForRetrieval
from ray_pipeline.stages.retrieval.tune import TuneRetriever

HOSTILE = "test: <script>alert(1)</script> of Grief"


def stages(model: str, seed: int = 3, **tuning: Any) -> list[Any]:
    """The stages from the embedding on, bound to each other."""
    made = [
        EmbedForRetrieval().bound({"models": {"toy": {"model": model}}}),
        write_stage(),
        MeasureRetrievers().bound({}),
        TuneRetriever().bound(
            {"tuning": {"epochs": 1, "batch_pairs": 8, "loss": {"matryoshka": [16, 4]}}, **tuning}
        ),
        CompareRetrievers().bound({}),
    ]
    settings = Settings(
        seed=seed, models={model: model}, revisions={model: "r"}, stages=made, run_dir=""
    )
    return [stage.bound(stage.config, settings) for stage in made]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run directory with all artifacts, and the figures of each stage."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_retriever(tmp_path_factory.mktemp("model"))
    by_hand = {"kind": "by hand", "wording": "test-hand", "split": "test"}
    unrelated = {"source_name": "unrelated", "split": None, "new": None, "kind": None}
    extra: list[dict[str, Any]] = [
        {"row_id": "h1", "query": HOSTILE, "wants": "theme", "theme": "Grief", **by_hand},
        {"row_id": "h2", "query": "riders", "wants": "genre", "genre": "Western", **by_hand},
        *(
            {"row_id": f"u{n}", "question": question, "answer": answer, **unrelated}
            for n, (question, answer) in enumerate(
                [("a?", "b c"), ("d?", "e f"), ("a?", "the capital"), ("f?", "e f")]
            )
        ),
    ]
    rows = golden_rows(folder=folder, vectors=True, extra=extra)
    place = Workplace(Storage(str(folder)), "work", lambda line: None)
    figures = {stage.name: stage.make(rows, place) for stage in stages(model)[1:]}
    return folder, figures


def test_every_retriever_is_measured_on_the_text_and_with_tags(run: Any) -> None:
    result = json.loads((run[0] / "retrieval/baselines.json").read_text())
    for view in ("text", "tagged"):
        own = result["views"][view]
        assert set(own["retrievers"]) == {"bm25", "word-vectors", "toy", "bm25+toy", "tag-matcher"}
        assert set(own["against_best"]) == set(own["retrievers"]) - {own["best"]}
    tags = result["views"]["text"]["retrievers"]["tag-matcher"]["metrics"]
    assert tags["precision@1"]["mean"] == 1  # these queries name the tags
    with (run[0] / "exports/query_metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5 * tags["map"]["number"]


def test_before_and_after_are_measured_on_the_same_queries(run: Any) -> None:
    folder, figures = run
    assert figures["tune-retriever"]["base"] == "toy"
    result = json.loads((folder / "retrieval/comparison.json").read_text())
    models = result["models"]
    assert list(models) == ["before", "retriever-1", "retriever-1-shuffled"]
    for part in ("text", "tagged", "by_hand"):
        numbers = {one[part]["metrics"]["map"]["number"] for one in models.values()}
        assert len(numbers) == 1
    assert models["before"]["by_hand"]["queries"] == 2
    gain = models["retriever-1"]["text"]["gains"]["mrr@10"]
    means = [models[n]["text"]["metrics"]["mrr@10"]["mean"] for n in ("retriever-1", "before")]
    assert gain["mean"] == pytest.approx(means[0] - means[1])
    assert result["against_control"]["mrr@10"]["queries"] == gain["queries"]
    assert set(models["before"]["cut"]) == {"4"}
    # Three different questions; one has two answers.
    assert result["unrelated"] == 3
    assert models["before"]["unrelated"]["mrr@10"]["number"] == 3
    report = (folder / "exports/comparison.md").read_text()
    assert result["verdict"] in report and "What was forgotten" in report
    card = (folder / "models/retriever-1-shuffled/README.md").read_text()
    assert "do not use it" in card


def test_training_sees_nothing_that_is_held_out(run: Any, tmp_path: Path) -> None:
    rows = golden_rows(folder=tmp_path, vectors=True)
    embed, write, _, tune, _ = stages("unused", hard_negatives=2)
    golden = write.golden(rows)
    data = tune.data(golden, embed.config.models["toy"], Storage(str(run[0])), 1)
    assert {golden.sides[context] for _, context in data.pairs} == {"train"}
    hard = {context for own in data.hard.values() for context in own}
    assert hard and {golden.sides[context] for context in hard} == {"train"}
    assert all("train" in text for text in data.queries)
    for query, own in data.hard.items():
        assert not set(own) & set(data.grades[query])


def test_the_report_shows_both_and_escapes_what_queries_say(run: Any) -> None:
    folder, figures = run
    reader: Any = SimpleNamespace(made_by=figures.get, storage=Storage(str(folder)))
    for module, words in ((retrievers, "On the text alone"), (retriever_tuning, "Trainings")):
        section = module.SECTION.read(reader)
        page = _templates().get_template(module.SECTION.template).render(section=section)
        assert words in page and "<script>" not in page
    nothing: Any = SimpleNamespace(made_by=lambda stage: None, storage=reader.storage)
    assert retrievers.SECTION.read(nothing) is retriever_tuning.SECTION.read(nothing) is None


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    for words, config in {
        "base: no model 'tox'.*'toy'": {"base": "tox"},
        "two are equal": {"seeds": [1, 1]},
    }.items():
        with pytest.raises(UserError, match=words):
            stages("unused", **config)[3].check()
