"""No sentence is on two sides, and no pair is trained on and measured on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
from support.local_tables import decisions

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.stage import Settings
from ray_pipeline.stages.reasoning.repeated_pairs import RepeatedPairs
from ray_pipeline.stages.reasoning.split_pairs import GivenSplits, PairsInTwoSplits, SplitPairs

SETTINGS = Settings(seed=7)
WORDS = [f"w{at}" for at in range(2_000)]


def table(rows: list[tuple[str, str]], **more: list[str]) -> pa.Table:
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("premise", "hypothesis"))}
    return with_envelope(pa.table({**columns, **more}), [f"r{at}" for at in range(len(rows))])


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=9))


def test_pairs_that_share_a_sentence_anywhere_are_on_one_side(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows, chains = [], []
    for _ in range(60):  # a - b, b - c (b as premise), and c - d reversed
        a, b, c, d = (sentence(rng) for _ in range(4))
        chain = [(a, b), (b, c), (d, c.upper() + "!"), (b, a)]
        chains.append(range(len(rows), len(rows) + 4))
        rows += chain
    rows += [(sentence(rng), sentence(rng)) for _ in range(100)]
    same = sentence(rng)
    rows.append((same, same))
    stage = SplitPairs().bound({"validation": 0.2, "test": 0.3}, SETTINGS)
    made = decisions(stage, table(rows), tmp_path)
    sides = [made[f"r{at}"]["split"] for at in range(len(rows))]
    assert all(len({sides[at] for at in chain}) == 1 for chain in chains)
    assert set(sides) == {"train", "validation", "test"}
    assert {made[f"r{at}"]["split_group_rows"] for at in chains[0]} == {4}
    # Of small components about the configured shares.
    assert 0.15 < sides.count("test") / len(sides) < 0.45


def test_a_large_component_is_trained_on(tmp_path: Path) -> None:
    rng = random.Random(4)
    hub = sentence(rng)
    rows = [(hub, sentence(rng)) for _ in range(11)]
    stage = SplitPairs().bound({"validation": 0.4, "test": 0.5, "max_group_rows": 10}, SETTINGS)
    made = decisions(stage, table(rows), tmp_path)
    assert {each["split"] for each in made.values()} == {"train"}


def test_a_pair_of_the_test_file_is_not_trained_on(tmp_path: Path) -> None:
    rows = [("a b", "c d"), ("C d!", "a b"), ("a b", "c d"), ("x", "y"), ("x", "z")]
    splits = ["test", "train", "validation", "train", "validation"]
    stage = PairsInTwoSplits().bound(None, SETTINGS)
    made = decisions(stage, table(rows, split=splits), tmp_path)
    assert {row: each["reason"] for row, each in made.items()} == {
        "r1": "leak:pair_in_test",
        "r2": "leak:pair_in_test",
    }
    kept = decisions(stage.bound({"leaked": "keep"}), table(rows, split=splits), tmp_path / "b")
    assert {(each["status"], each["pair_also_in"]) for each in kept.values()} == {(None, "test")}


def test_given_splits_replace_those_that_were_drawn() -> None:
    stage = GivenSplits().bound({"by_source": {"dev": "validation"}}, SETTINGS)
    rows = table([("a", "b"), ("c", "d")], split=["test", "test"], source_name=["dev", "web"])
    counts: Counter[str] = Counter()
    assert stage.apply(rows, counts)["split"].to_pylist() == ["validation", "test"]
    assert stage.sources == ("dev",)  # so that a run without such a source is refused
    assert GivenSplits().bound().is_off


def test_repeated_pairs_are_reported_and_dropped_where_asked(tmp_path: Path) -> None:
    rows = [("a", "b"), ("A.", "b"), ("a", "c"), ("a", "c"), ("b", "a")]
    labels = ["neutral", "neutral", "neutral", "entailment", "neutral"]
    pairs = table(rows, label=labels)
    reported = decisions(RepeatedPairs().bound(None, SETTINGS), pairs, tmp_path / "a")
    assert {row: each["pair_labels"] for row, each in reported.items()} == {
        "r0": 1,
        "r1": 1,
        "r2": 2,
        "r3": 2,
    }
    assert all(each["status"] is None for each in reported.values())
    dropping = RepeatedPairs().bound({"repeats": "drop", "two_labels": "drop"}, SETTINGS)
    found = decisions(dropping, pairs, tmp_path / "b")
    dropped = {row: each["reason"] for row, each in found.items() if each["status"] == "dropped"}
    assert Counter(dropped.values()) == {"duplicate:pair": 1, "duplicate:two_labels": 2}
    assert set(dropped) - {"r0", "r1"} == {"r2", "r3"}
