"""Groups of twins stay on one side, and nothing else moves."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.local_tables import decisions

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.stage import Settings
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.split_groups import SplitGroups

TEXTS = ("instruction", "response")
WORDS = [f"w{i}" for i in range(3000)]


def stage(**config: Any) -> SplitGroups:
    made = SplitGroups(*TEXTS, by=TEXTS, equal=("instruction",), equal_if_long=("response",))
    return made.bound({"validation": 0.1, "test": 0.4, **config}, Settings(seed=7))


def some_text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def table(rows: list[tuple[str, str]]) -> pa.Table:
    texts = pa.table(dict(zip(TEXTS, (list(c) for c in zip(*rows, strict=True)), strict=True)))
    return with_envelope(texts, [f"r{i}" for i in range(len(rows))])


def sides(made: dict[str, dict[str, object]]) -> list[object]:
    return [made[f"r{i}"]["split"] for i in range(len(made))]


def alone(rows: pa.Table) -> list[str]:
    split = Split(by=TEXTS).bound({"validation": 0.1, "test": 0.4}, Settings(seed=7))
    return split.apply(rows, Counter())["split"].to_pylist()


def planted(seed: int = 0) -> tuple[list[tuple[str, str]], list[list[int]]]:
    """120 rows of their own, and 40 groups of twins of each kind, mixed."""
    rng = random.Random(seed)
    rows: list[tuple[str, str]] = [(some_text(rng, 9), some_text(rng, 20)) for _ in range(120)]
    groups: list[list[int]] = []
    for number in range(40):
        instruction, response = some_text(rng, 9), some_text(rng, 20)
        words = response.split()
        words[10] = "changed"
        twin = [
            (instruction.upper() + "!", response),  # exact, but for case and punctuation
            (instruction, some_text(rng, 20)),  # the same instruction
            (some_text(rng, 9), response),  # the same long response
            (instruction, " ".join(words)),  # nearly the same text
        ][number % 4]
        groups.append([len(rows), len(rows) + 1])
        rows += [(instruction, response), twin]
    order = list(range(len(rows)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    return [rows[old] for old in order], [[place[i] for i in group] for group in groups]


def test_planted_twins_are_on_one_side_and_no_other_row_moves(tmp_path: Path) -> None:
    texts, groups = planted()
    rows = table(texts)
    before = alone(rows)
    made = decisions(stage(), rows, tmp_path, units=3)
    after = sides(made)
    parted = [group for group in groups if len({before[i] for i in group}) > 1]
    assert len(parted) > 10  # the split by text parts them: of no exact twin, of most others
    assert all(len({after[i] for i in group}) == 1 for group in groups)
    for group in groups:
        assert len({made[f"r{i}"]["split_group"] for i in group}) == 1
        assert {made[f"r{i}"]["split_group_rows"] for i in group} == {2}
    twins = {i for group in groups for i in group}
    others = [i for i in range(len(texts)) if i not in twins]
    assert len(others) == 120
    assert [after[i] for i in others] == [before[i] for i in others]
    assert {made[f"r{i}"]["split_group"] for i in others} == {None}


@pytest.mark.parametrize("edges_in_memory", [10, 5_000_000])
def test_the_order_of_rows_and_where_files_end_do_not_matter(
    tmp_path: Path, edges_in_memory: int
) -> None:
    texts, _ = planted()
    first = decisions(stage(), table(texts), tmp_path / "a", units=1)
    other = stage()
    other.edges_in_memory = edges_in_memory
    again = decisions(other, table(texts[::-1]), tmp_path / "b", units=5)
    names = ("split", "split_group", "split_group_rows")
    number = len(texts)
    for i in range(number):
        one, two = first[f"r{i}"], again[f"r{number - 1 - i}"]
        assert [one[name] for name in names] == [two[name] for name in names]


def test_a_chain_is_one_group_and_a_short_answer_makes_none(tmp_path: Path) -> None:
    rng = random.Random(1)
    one, two, answer, other = (some_text(rng, 12) for _ in range(4))
    chain = [(one, answer), (two, answer), (two, other)]
    short = [(some_text(rng, 9), "yes") for _ in range(5)]
    made = decisions(stage(), table(chain + short), tmp_path)
    assert {made[f"r{i}"]["split_group_rows"] for i in range(3)} == {3}
    assert {made[f"r{i}"]["split_group"] for i in range(3, 8)} == {None}
    made = decisions(stage(long_words=1), table(chain + short), tmp_path / "short")
    assert {made[f"r{i}"]["split_group_rows"] for i in range(3, 8)} == {5}


def test_a_large_group_is_trained_on(tmp_path: Path) -> None:
    rng = random.Random(2)
    rows = [(f"translate {group}", some_text(rng, 20)) for group in range(30) for _ in range(4)]
    made = decisions(stage(max_group_rows=4), table(rows), tmp_path / "small")
    assert {"train", "test"} <= {*sides(made)}
    made = decisions(stage(max_group_rows=3), table(rows), tmp_path / "large")
    assert {*sides(made)} == {"train"}


def test_versions_of_a_row_stay_together_with_the_twins_of_each(tmp_path: Path) -> None:
    rng = random.Random(3)
    texts = [(some_text(rng, 9), some_text(rng, 20)) for _ in range(60)]
    texts[1] = (texts[40][0], texts[1][1])  # a version of row 0 asks what row 40 asks
    rows = table(texts)
    parents = [None, "r0", "r0", *[None] * 57]
    rows = rows.set_column(
        rows.column_names.index("parent_id"), "parent_id", pa.array(parents, pa.string())
    )
    split = SplitGroups(*TEXTS, equal=("instruction",)).bound(
        {"validation": 0.1, "test": 0.4}, Settings(seed=7)
    )
    made = decisions(split, rows, tmp_path, units=4)
    assert len({made[f"r{i}"]["split_group"] for i in (0, 1, 2, 40)}) == 1
    assert made["r40"]["split_group_rows"] == 4
    assert sum(made[f"r{i}"]["split_group"] is None for i in range(60)) == 56
