"""The golden set: sides, graded relevance, leaks, negatives, exports."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.golden_rows import CONTEXTS, HELD_OUT, QUERIES, golden_rows, write_stage

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.ranking import Judged
from ray_pipeline.stage import Workplace
from ray_pipeline.stages.retrieval.golden import leaks, read_golden, wanted
from ray_pipeline.stages.retrieval.negatives import MiningConfig, at_random, mine
from ray_pipeline.stages.retrieval.split import SplitFamilies
from ray_pipeline.stages.retrieval.tags import TagPrompts, tags_of
from ray_pipeline.stages.retrieval.write_golden import BEIR, PAIRS

ATTRIBUTES = ("genre", "theme")


def test_the_tagged_form_is_that_of_the_original_and_reads_back() -> None:
    columns = {
        "prompt": ['An alien, "lost"', "A <b>tag</b> in it", "Plain", "Two < three"],
        "title": ["Lost Translator", "T", "A <title>", None],
        "genre": ["Science Fiction", "G", "G", "Fantasy"],
        "theme": ["Alien Encounter", "T", "T", None],
    }
    rows = with_envelope(pa.table(columns), list("abcd"))
    found = TagPrompts().bound().apply(rows, Counter())
    assert found["reason"].to_pylist() == [None, "tag:in_text", "tag:malformed: title", None]
    context = found["context"][0].as_py()
    assert context == (
        "<Science Fiction> </Science Fiction> <Alien Encounter> </Alien Encounter> "
        '<Lost Translator> </Lost Translator> prompt An alien, "lost"'
    )
    assert tags_of(context) == ["Science Fiction", "Alien Encounter", "Lost Translator"]
    assert found["context"][3].as_py() == "<Fantasy> </Fantasy> prompt Two < three"


def test_a_value_that_is_held_out_takes_the_row_with_it() -> None:
    rows = golden_rows(split=False)
    stage = SplitFamilies().bound({"held_out": HELD_OUT})
    found = stage.apply(rows, Counter()).to_pylist()
    by_id = {row["row_id"]: row for row in found}
    assert by_id["c-Fantasy-Magic-0"]["split"] == "train"
    assert by_id["c-Western-Magic-0"]["split"] == "test"
    assert by_id["c-Western-Magic-0"]["new"] == "genre"
    assert by_id["c-Spy-Magic-0"]["split"] == "validation"
    assert by_id["c-Spy-Grief-0"]["split"] == "test"
    assert by_id["q-mixed"]["reason"].startswith("split:mixed")
    assert by_id["q-mixed"]["status"] == "dropped"


def test_nothing_held_out_and_a_value_on_two_sides_are_refused() -> None:
    with pytest.raises(UserError, match="nothing is held out"):
        SplitFamilies().bound().check()
    both = {"test": {"genre": ["A"]}, "validation": {"genre": ["A"]}}
    with pytest.raises(UserError, match="'A' is in validation and in test"):
        SplitFamilies().bound({"held_out": both}).check()


def test_relevance_is_the_share_of_what_is_wanted() -> None:
    golden = read_golden(golden_rows(), ATTRIBUTES, 0.5, False)
    number = next(
        n for n, q in enumerate(golden.queries) if q.family == "genre=Western; theme=Grief"
    )
    judged = golden.judged[number]
    ids = {golden.context_ids[c]: g for c, g in zip(judged.contexts, judged.grades, strict=True)}
    assert ids["c-Western-Grief-0"] == 1
    assert ids["c-Western-Magic-0"] == ids["c-Fantasy-Grief-0"] == 0.5
    assert "c-Fantasy-Magic-0" not in ids
    # A training query is not judged against contexts that are held out.
    train = next(n for n, q in enumerate(golden.queries) if q.family == "genre=Fantasy")
    sides = {golden.sides[context] for context in golden.judged[train].contexts}
    assert sides == {"train"}


def test_a_golden_set_without_leaks_has_none_and_each_kind_is_found() -> None:
    golden = read_golden(golden_rows(), ATTRIBUTES, 0.5, False)
    assert not any(leaks(golden).values())
    planted = golden_rows(
        extra=[
            {"row_id": "x", "query": "Fantasy once more", "wants": "genre", "genre": "Fantasy",
             "split": "test", "wording": "train-0"},
        ]
    )  # fmt: skip
    found = leaks(read_golden(planted, ATTRIBUTES, 0.5, False))
    assert found["families"] == ["genre=Fantasy"] and found["wordings"] == ["train-0"]
    assert found["contexts"] and found["positives"]


def test_a_leak_fails_the_run(tmp_path: Path) -> None:
    planted = golden_rows(
        folder=tmp_path,
        vectors=True,
        extra=[
            {"row_id": "x", "query": "Grief!", "wants": "theme", "theme": "Grief", "split": "train",
             "wording": "train-0"},
            {"row_id": "y", "query": "Grief!", "wants": "genre", "genre": "Western",
             "split": "test", "wording": "test-0"},
            {"row_id": "z", "prompt": "A prompt of Magic", "genre": "Fantasy", "theme": "Grief",
             "split": "train"},
        ],
    )  # fmt: skip
    stage = write_stage()
    place = Workplace(Storage(str(tmp_path)), "work", lambda line: None)
    with pytest.raises(RunError, match=r"training and held-out queries share .*families"):
        stage.make(planted, place)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"wants": "theme", "theme": "Cooking"}, "no relevant context: .*theme=Cooking"),
        ({"wants": "gnre", "genre": "Fantasy"}, "'gnre', which is no attribute.*'genre'"),
        ({"wants": "genre theme", "genre": "Fantasy"}, "no value in 'theme'"),
    ],
)
def test_a_query_that_nothing_answers_is_refused_with_its_text(
    row: dict[str, str], message: str
) -> None:
    rows = golden_rows(extra=[{"row_id": "x", "query": "A strange one", "split": "train", **row}])
    with pytest.raises(UserError, match=message):
        read_golden(rows, ATTRIBUTES, 0.5, False)


def test_a_query_without_a_context_is_left_out_if_so_configured() -> None:
    extra = [{"row_id": "x", "query": "?", "split": "train", "wants": "theme", "theme": "Cooking"}]
    golden = read_golden(golden_rows(extra=extra), ATTRIBUTES, 0.5, True)
    assert [query.text for query in golden.left_out] == ["?"]
    assert len(golden.queries) == len(QUERIES) - 1  # without the one of two sides


def test_the_exports_have_grades_and_parse_back(tmp_path: Path) -> None:
    rows = golden_rows(folder=tmp_path, vectors=True)
    place = Workplace(Storage(str(tmp_path)), "work", lambda line: None)
    figures = write_stage().make(rows, place)
    with (tmp_path / PAIRS).open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert list(pairs[0]) == ["query", "context", "relevance"]
    assert len(pairs) == figures["pairs"]
    assert {pair["relevance"] for pair in pairs} == {"0.0", "0.5", "1.0"}
    tagged = {row["context"] for row in CONTEXTS}
    assert {pair["context"] for pair in pairs} <= tagged
    assert any('"' in pair["context"] and "," in pair["context"] for pair in pairs)
    corpus = [json.loads(line) for line in (tmp_path / BEIR / "corpus.jsonl").open()]
    qrels = (tmp_path / BEIR / "qrels/test.tsv").read_text().splitlines()
    assert len(corpus) == len(CONTEXTS) and qrels[0] == "query-id\tcorpus-id\tscore"
    assert {line.split("\t")[2] for line in qrels[1:]} == {"1", "2"}
    assert figures["leaks"] == 0 and figures["mined"] > 0


def test_wants_may_be_parted_by_commas() -> None:
    assert wanted("theme, genre theme") == ["genre", "theme"]


def test_hard_negatives_are_never_judged_relevant_nor_of_another_side() -> None:
    judged = Judged.of({0: 1.0, 1: 0.5})
    scores = np.array([0.8, 0.95, 0.9, 0.7, 0.99, 0.1])
    allowed = [True, True, True, True, False, True]
    found = mine(scores, judged, allowed, MiningConfig(per_query=2, depth=4))
    assert found.contexts.tolist() == [2, 3] and found.judged_away == 2
    assert found.positive == 0.8
    margin = MiningConfig(per_query=2, depth=4, relative_margin=0.05)
    assert mine(scores, judged, allowed, margin).contexts.tolist() == [3]
    capped = MiningConfig(per_query=2, depth=4, max_score=0.5)
    assert mine(scores, judged, allowed, capped).contexts.tolist() == []
    skipped = MiningConfig(per_query=2, depth=4, skip=2)
    assert mine(scores, judged, allowed, skipped).contexts.tolist() == [3]
    random = at_random(judged, allowed, 9, np.random.default_rng(0))
    assert random.tolist() == [2, 3, 5]
