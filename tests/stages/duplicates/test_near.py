"""Near duplicates: found, verified on the text, never by a chain, the same whatever the layout."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from stages.duplicates.test_exact import rows_of
from support.local_tables import all_rows, decisions, tables

from ray_pipeline.stage import Settings
from ray_pipeline.stages.components import components
from ray_pipeline.stages.duplicates.minhash import jaccard, shingles
from ray_pipeline.stages.duplicates.near import NearDuplicates

WORDS = [f"w{i}" for i in range(400)]


def stage(**config: object) -> NearDuplicates:
    chosen: dict[str, Any] = {"must_equal": (), "ngram": 3, **config}
    return NearDuplicates("question", "answer").bound(chosen, Settings(seed=7))


def naive_shingles(text: str, size: int) -> set[str]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    runs = [" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))]
    return set(runs) if words else set()


def naive_jaccard(one: str, other: str, size: int) -> float:
    a, b = naive_shingles(one, size), naive_shingles(other, size)
    return len(a & b) / max(1, len(a | b))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(st.sampled_from("abcdé"), max_size=9).map(" ".join)] * 2)),
    st.integers(1, 4),
)
def test_shingles_and_similarity_as_defined(pairs: list[tuple[str, str]], size: int) -> None:
    left = shingles(pa.array([one for one, _ in pairs], pa.string()), size)
    right = shingles(pa.array([other for _, other in pairs], pa.string()), size)
    for texts, lists in zip(zip(*pairs, strict=True), (left, right), strict=False):
        expected = [len(naive_shingles(text, size)) for text in texts]
        assert [len(set(hashes)) for hashes in lists.to_pylist()] == expected
    expected = [naive_jaccard(one, other, size) for one, other in pairs]
    np.testing.assert_allclose(jaccard(left, right), expected, rtol=1e-6)


def test_texts_without_spaces_have_words() -> None:
    (chinese, thai) = shingles(pa.array(["长城在哪里", "สวัสดี"]), 2).to_pylist()
    assert len(chinese) == 4
    assert len(thai) > 1


def edited(text: str, number: int, rng: random.Random) -> str:
    words = text.split()
    for _ in range(number):
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


def corpus(rows: int, seed: int) -> pa.Table:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(20, 60))) for _ in range(rows // 4)]
    while len(texts) < rows:
        texts.append(edited(rng.choice(texts), rng.randint(0, 4), rng))
    return rows_of(*[(text, "") for text in texts])


def test_what_is_dropped_is_similar_and_what_stays_is_not(tmp_path: Path) -> None:
    rows = corpus(400, seed=1)
    text = dict(zip(rows["row_id"].to_pylist(), rows["question"].to_pylist(), strict=True))
    made = decisions(stage(ngram=3), rows, tmp_path, units=3)
    assert len(made) > 50
    for row_id, row in made.items():
        winner = str(row["duplicate_of"])
        similarity = naive_jaccard(text[row_id], text[winner], 3)
        assert similarity >= 0.8
        assert row["duplicate_similarity"] == pytest.approx(similarity, abs=1e-6)
        assert winner not in made, "a winner that was dropped itself"
        assert len(text[winner]) >= len(text[row_id])
    left = [row_id for row_id in text if row_id not in made]
    missed = [
        pair
        for pair in combinations(left, 2)
        if naive_jaccard(text[pair[0]], text[pair[1]], 3) >= 0.8
    ]
    assert len(missed) <= 1  # each pair has a chance of 0.2% and less to be missed


def test_the_same_for_any_layout_and_either_way_of_deciding(tmp_path: Path) -> None:
    rows = corpus(300, seed=2)
    first = decisions(stage(), rows, tmp_path / "1", units=1)
    assert decisions(stage(), rows, tmp_path / "7", units=7) == first
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(rows.num_rows)))
    assert decisions(stage(), shuffled, tmp_path / "shuffled", units=2) == first
    by_component = stage()
    type(by_component).pairs_in_memory, saved = 0, type(by_component).pairs_in_memory
    try:
        assert decisions(by_component, rows, tmp_path / "components", units=3) == first
    finally:
        type(by_component).pairs_in_memory = saved


def test_a_chain_is_not_swallowed(tmp_path: Path) -> None:
    """1,000 rows, each very similar to the next one, and none to those far from it."""
    words = [f"w{i}" for i in range(1_000 + 40)]
    rows = rows_of(*[(" ".join(words[i : i + 40]), "") for i in range(1_000)])
    texts = rows["question"].to_pylist()
    assert naive_jaccard(texts[0], texts[1], 3) > 0.9
    assert naive_jaccard(texts[0], texts[9], 3) < 0.8
    text = dict(zip(rows["row_id"].to_pylist(), texts, strict=True))
    made = decisions(stage(), rows, tmp_path, units=4)
    for row_id, row in made.items():
        assert naive_jaccard(text[row_id], text[str(row["duplicate_of"])], 3) >= 0.8
    # A survivor speaks for the rows that are similar to it, at most four on each side.
    assert 1_000 / 9 <= 1_000 - len(made) <= 1_000 / 4


def test_equal_answers_are_asked_for(tmp_path: Path) -> None:
    question = (
        "In which year did the football club from the north win the national cup in the final"
    )
    rows = rows_of((question, "1998"), (question, "2002"), (question + " game", "1998."))
    made = decisions(stage(must_equal=("answer",), threshold=0.6), rows, tmp_path)
    ids = rows["row_id"].to_pylist()
    assert {ids.index(k): ids.index(str(v["duplicate_of"])) for k, v in made.items()} == {0: 2}


@pytest.mark.parametrize(
    ("texts", "dropped"),
    [
        (["only one"], 0),
        (["", "", ""], 0),
        ([None, None], 0),
        (["same words here"] * 3_000, 2_999),
        (["word " * 20_000, "word " * 20_000 + "end", "word " * 9, "?!", "…"], 1),
        (["\x00\x07", "\ud7ff", "𝔘𝔫𝔦", "a" * 100_000], 0),
    ],
)
def test_wild_rows(tmp_path: Path, texts: list[str | None], dropped: int) -> None:
    rows = rows_of(*[(text, None) for text in texts])
    assert len(decisions(stage(), rows, tmp_path, units=2)) == dropped


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda e: e[0] != e[1])))
def test_components(tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int]]) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64())])
    table = pa.table([[a for a, _ in edges], [b for _, b in edges]], schema=schema)
    parts = [table.slice(0, len(edges) // 2), table.slice(len(edges) // 2)]
    made = all_rows(components(tables(tmp_path_factory.mktemp("t"), parts), "a", "b")).to_pylist()
    assert sorted((row["a"], row["b"]) for row in made) == sorted(edges)
    graph = coo_matrix(
        (np.ones(len(edges)), ([a for a, _ in edges], [b for _, b in edges])), (31, 31)
    )
    _, labels = connected_components(graph, directed=False)
    for row in made:
        members = [node for node in range(31) if labels[node] == labels[row["a"]]]
        assert row["component"] == min(members)


def test_components_of_a_long_path(tmp_path: Path) -> None:
    nodes = np.random.default_rng(3).permutation(3_000)
    table = pa.table({"a": nodes[:-1], "b": nodes[1:]})
    made = all_rows(components(tables(tmp_path, [table]), "a", "b"))
    assert set(made["component"].to_pylist()) == {0}
