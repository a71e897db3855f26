"""The evaluation of compressions on rows whose figures can be said beforehand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.stored_parts import put_part
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.compression import systems as ways
from ray_pipeline.stages.compression.break_even import Prices, break_even
from ray_pipeline.stages.compression.downstream import AnswerLosses, Reference, reference
from ray_pipeline.stages.compression.evaluate import RESULTS, EvaluateCompressions
from ray_pipeline.stages.compression.measure import MeasurePrompts
from ray_pipeline.train.student import save

PROMPTS = [
    "what is the capital of a",
    "what is the answer of b",
    "the question is of c d",
    "what is d",
    "based on the passage what is e",
    "is the answer a b c of the capital",
]
SHORT = [prompt.replace("the ", "") for prompt in PROMPTS]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = word_tokenizer(chat=True)
    folder = tmp_path_factory.mktemp("models") / "judge"
    save(tiny_model("llama", len(tokenizer)).float(), tokenizer, folder)
    return str(folder)


def evaluated(run: Path, judge: str, monkeypatch: Any, **config: Any) -> dict[str, Any]:
    rows = {
        "prompt": PROMPTS,
        "compressed_prompt": SHORT,
        "response": ["a b", "c", "d e f.", "a", "b", "c d"],
        "split": ["test"] * 6,
        "split_group": ["g", "g", None, None, None, None],
        "word_surprise": [[float(len(w)) for w in text.split()] for text in PROMPTS],
    }
    put_part(run / "p.parquet", with_envelope(pa.table(rows), [f"r{i}" for i in range(6)]))

    class Embedder:
        def __init__(self, folder: str | None) -> None: ...

        def encode(self, texts: list[str]) -> Any:
            vectors = np.array([[1.0 + len(t), 1.0] for t in texts])
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr("ray_pipeline.models.embedder.Embedder", Embedder)
    stage, measure = EvaluateCompressions(), MeasurePrompts()
    measure.config = measure.config_type(tokenizer="judge")
    settings = Settings(stages=(measure,), models={"judge": judge}, embedder="e")
    wanted = {"model": "judge", "rates": [0.5], "draws": 2, "agreement_rows": 3,
              "agreement_tokens": 4, **config}  # fmt: skip
    stage = stage.bound(wanted, settings)
    place = Workplace(Storage(str(run)), "work", lambda line: None)
    return stage.make(StoredRows(Storage(str(run)), ("p.parquet",), "d"), place)


def of(figures: dict[str, Any], name: str, matched: str = "") -> dict[str, Any]:
    (found,) = [s for s in figures["systems"] if (s["name"], s["matched"]) == (name, matched)]
    return found


def test_a_whole_evaluation(tmp_path, judge: str, monkeypatch) -> None:
    figures = evaluated(tmp_path, judge, monkeypatch, prices={"prompt": 1, "completion": 2})
    # The one about a passage is left out; two rows are one family.
    assert figures["rows"] == 5 and figures["families"] == 4
    assert figures["left_out"]["about a passage"] == 1
    original = of(figures, ways.ORIGINAL)
    assert original["total_ratio"] == 1 and original["added_nats"]["mean"] == 0
    assert original["rouge"]["rouge1"] == 1 and original["similarity"]["mean"] == pytest.approx(1)
    assert of(figures, ways.EMPTY)["added_nats"]["mean"] != 0
    generated = of(figures, ways.GENERATED)
    # 6, 6, 6, 3 and 9 words; one, one, one, none and two less.
    assert (generated["before"], generated["after"]) == (30, 25)
    assert generated["violations"] == 0 and generated["unchanged"] == 1
    for name in (ways.FIRST, ways.RANDOM, ways.SURPRISE):
        assert of(figures, name, ways.GENERATED)["total_ratio"] == pytest.approx(25 / 30, abs=0.04)
    assert of(figures, ways.RANDOM, "rate 0.5")["draws"] == 2
    assert {c["than"] for c in figures["comparisons"]} == set(ways.BASELINES)
    assert figures["ceiling"] is not None and generated["agreement"]["number"] <= 3
    assert of(figures, ways.EMPTY)["agreement"] is None
    assert figures["break_even"]["saved_tokens"] == pytest.approx(1000 * 5 / 5)
    with (tmp_path / RESULTS).open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * len(figures["systems"])
    assert {line["text"] for line in lines if line["system"] == ways.EMPTY} == {""}


def test_a_second_attempt_computes_no_loss_again(tmp_path, judge: str, monkeypatch) -> None:
    first = evaluated(tmp_path, judge, monkeypatch, agreement_rows=0)

    def again(stage: EvaluateCompressions) -> None:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(EvaluateCompressions, "_scorer", again)
    assert evaluated(tmp_path, judge, monkeypatch, agreement_rows=0) == first


def test_losses_are_of_the_row_and_its_prompt_alone(tmp_path, judge: str) -> None:
    from ray_pipeline.evaluate.log_probs import TextScorer

    references = [Reference("a b", True), Reference("a b", False)]
    losses = AnswerLosses(
        lambda: TextScorer.load(judge), references, Storage(str(tmp_path)), "nats"
    )
    losses.add([(0, "what"), (1, "what"), (0, "the")], lambda line: None)
    whole, cut = losses.nats(0, "what"), losses.nats(1, "what")
    (found,) = TextScorer.load(judge).answers(["what"], ["a b"])
    assert whole == pytest.approx(-found.total, rel=1e-5)
    # The end is scored only where a person ended the answer.
    assert losses.tokens(0, "what") == losses.tokens(1, "what") + 1 and cut < whole


def test_the_end_of_a_response_that_was_cut_is_not_scored() -> None:
    assert reference("A whole answer", 100, 530) == Reference("A whole answer", True)
    assert reference("x" * 530, 100, 530).is_whole is False
    assert reference("x" * 530 + ".", 100, 530).is_whole is True
    assert reference("one  two\nthree four", 3, 530) == Reference("one  two\nthree", False)


def test_floors_take_the_prompt_of_another_family() -> None:
    prompts, families = ["a", "a2", "b", "c"], ["x", "x", "y", "z"]
    other = next(s for s in ways.floors(prompts, families, 3) if s.name == ways.OTHER)
    family_of = dict(zip(prompts, families, strict=True))
    assert all(family_of[t] != f for t, f in zip(other.texts, families, strict=True))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Given a reference text about Lollapalooza, where does it take place?", True),
        ("From the passage, who wrote the book?", True),
        ("Summarize the following paragraph", True),
        ("What is a text editor?", False),
        ("Write a short story about a cat", False),
        ("Who wrote the text of the Magna Carta?", False),
    ],
)
def test_instructions_about_a_passage_that_is_not_there(prompt: str, expected: bool) -> None:
    assert ways.cited_passage(prompt) is expected


def test_break_even_of_a_hand_checked_example() -> None:
    # Two prompts of 10 tokens become 6 and 8: 3 saved a use on average, 3,000 per thousand.
    found = break_even(
        before=[10, 10], after=[6, 8], repeated=[100, 100], asked=[12, 12], written=[6, 8],
        prices=Prices(prompt=1, cached_prompt=0.1, completion=4), compressor=Prices(
            prompt=0.5, cached_prompt=0.05, completion=2),
    )  # fmt: skip
    assert found["saved_tokens"] == 3_000 and found["compressing_tokens"] == 119_000
    assert found["saved_dollars"] == pytest.approx(0.003)
    # 112,000 at 0.5 and 7,000 at 2 dollars a million; cached: 100,000 at .05 instead.
    assert found["compressing_dollars"] == pytest.approx(0.070)
    assert found["compressing_dollars_cached"] == pytest.approx(0.005 + 0.006 + 0.014)
    assert found["uses"] == 24  # 0.070 / 0.003 = 23.3
    assert found["uses_cached"] == 84  # 0.025 / 0.0003 = 83.3
    never = break_even(
        before=[5], after=[5], repeated=[9], asked=[5], written=[5],
        prices=Prices(prompt=1, completion=1), compressor=Prices(prompt=1, completion=1),
    )  # fmt: skip
    assert never["uses"] is None
    free = break_even(before=[5], after=[4], repeated=[0], asked=[0], written=[0],
                      prices=None, compressor=None)  # fmt: skip
    assert "uses" not in free and free["compressing_tokens"] == 0
