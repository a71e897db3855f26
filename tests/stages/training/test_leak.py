"""Every planted twin across the split is found, for the sets that hold it, and no other."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from stages.training.test_split_groups import TEXTS, planted, sides, some_text, stage, table
from support.local_tables import decisions

from ray_pipeline.rundir.layout import CONTROL
from ray_pipeline.stage import Settings
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.training.leak import MeasureLeak

BEST_CONTROL = "best" + CONTROL


def measure(**settings: Any) -> MeasureLeak:
    made = MeasureLeak(*TEXTS, equal=("instruction",), equal_if_long=("response",))
    return made.bound({}, Settings(seed=7, **settings))


def with_split(rows: pa.Table, split: list[Any]) -> pa.Table:
    return rows.append_column("split", pa.array(split, pa.string()))


def twins_of(made: dict[str, dict[str, object]]) -> dict[str, object]:
    return {row_id: decision["twins"] for row_id, decision in made.items()}


@pytest.mark.parametrize("units", [1, 4])
def test_each_kind_of_twin_is_found_in_the_sets_that_hold_it(tmp_path: Path, units: int) -> None:
    rng = random.Random(5)
    one, other = some_text(rng, 9), some_text(rng, 20)
    words = other.split()
    words[3] = "changed"
    rows = [
        (one, other),  # 0 tested on: twins of each kind in several sets
        (one, some_text(rng, 20)),  # 1 the same instruction, in no subset
        (some_text(rng, 9), other),  # 2 the same response, in best
        (one, " ".join(words)),  # 3 nearly the same text, in the control
        (some_text(rng, 9), "yes"),  # 4 tested on: no twin, the answer is short
        (some_text(rng, 9), "yes"),  # 5 trained on
        (one, some_text(rng, 20)),  # 6 held out for validation
        (some_text(rng, 9), words[0]),  # 7 tested on, with a twin that is tested on
        (some_text(rng, 9), words[0]),  # 8
    ]
    rows[8] = (rows[7][0], rows[8][1])
    split = ["test", "train", "train", "train", "test", "train", "validation", "test", "test"]
    subsets = [
        None,
        [],
        ["best"],
        [BEST_CONTROL],
        None,
        ["best", BEST_CONTROL],
        None,
        None,
        None,
    ]
    select = SelectSubsets().bound({"subsets": {"best": {"rows": 2}}, "controls": True})
    data = with_split(table(rows), split).append_column(
        "subsets", pa.array(subsets, pa.list_(pa.string()))
    )
    leak = measure(stages=[select]).for_workers()
    found = decisions(leak, data, tmp_path, units)
    assert twins_of(found) == {
        "r0": sorted(
            [
                *("train:instruction", "train:response", "train:text"),
                *("best:response", f"{BEST_CONTROL}:instruction", f"{BEST_CONTROL}:text"),
            ]
        )
    }


def test_a_split_by_groups_leaves_nothing_to_find(tmp_path: Path) -> None:
    texts, groups = planted()
    rows = table(texts)
    by_groups = sides(decisions(stage(), rows, tmp_path / "split"))
    assert {"train", "test"} <= {*by_groups}
    found = decisions(measure(), with_split(rows, by_groups), tmp_path / "after")
    assert found == {}
    # The same rows with every group parted: each is found, by the row that is tested on.
    parted = ["train"] * len(texts)
    for test, _ in groups:
        parted[test] = "test"
    found = decisions(measure(), with_split(rows, parted), tmp_path / "before", units=3)
    assert {*found} == {f"r{test}" for test, _ in groups}


def test_the_counts_are_of_rows_not_of_twins() -> None:
    rows = pa.table(
        {
            "split": ["test", "test", "test", "train"],
            "twins": [["train:text", "train:response", "best:text"], ["train:text"], None, None],
        }
    )
    counts: Counter[str] = Counter()
    measure().count(rows, counts)
    assert counts == {
        "test rows": 3,
        "test rows with a twin in train": 2,
        "test rows with a twin in best": 1,
    }
