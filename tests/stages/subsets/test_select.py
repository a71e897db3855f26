"""Subsets against a full sort: exact whatever the ties and the layout, nested, with controls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local_tables import all_rows, decisions, tables

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.tables import REF
from ray_pipeline.engine import stored_tables
from ray_pipeline.stage import Settings
from ray_pipeline.stages.subsets import order as global_order
from ray_pipeline.stages.subsets import select
from ray_pipeline.stages.subsets.order import descending, in_ranges
from ray_pipeline.stages.subsets.select import SelectSubsets


@pytest.fixture(autouse=True)
def small_ranges() -> Iterator[None]:
    """A few rows are cut into many ranges, and these into many parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(global_order, "RANGE_ROWS", 4)
        patch.setattr(stored_tables, "_ONE_PART_ROWS", 8)
        patch.setattr(stored_tables, "_LEAST_PARTS", 3)
        yield


def stage(subsets: dict[str, Any], seed: int = 7, **config: Any) -> SelectSubsets:
    raw = {"subsets": subsets, **config}
    return SelectSubsets().bound(SelectSubsets.Config.model_validate(raw), Settings(seed=seed))


Made = tuple[float, str, str | None, str]


def rows_of(made: Sequence[Made]) -> pa.Table:
    """Rows of quality, text, source and split; ids in no order."""
    number = len(made)
    return pa.table(
        {
            "row_id": pa.array([f"{i * 7919 % 104_729:06d}" for i in range(number)], pa.string()),
            "instruction": pa.array([text for _, text, _, _ in made], pa.string()),
            "response": pa.array(["r"] * number, pa.string()),
            "quality": pa.array([quality for quality, _, _, _ in made], pa.float64()),
            "source": pa.array([source for _, _, source, _ in made], pa.string()),
            "split": pa.array([split for _, _, _, split in made], pa.string()),
        }
    )


def by_a_full_sort(
    one: SelectSubsets, rows: pa.Table
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """What the documentation says, on lists: the rank of each row, and the ids of each subset."""
    refs = rows.append_column(REF, pa.array(range(rows.num_rows), pa.int64()))
    keys = one.keys(refs)
    hashes = {row["ref"]: row for row in keys.to_pylist()}
    for draw in range(2, one.config.most_draws + 1):
        for row in select._with_lot(one.settings.seed, draw, keys).to_pylist():
            hashes[row["ref"]][f"lot{draw}"] = row["lot"]
    pool = [
        {**row, **hashes[ref]}
        for ref, row in enumerate(rows.to_pylist())
        if row["split"] == "train"
    ]
    best = sorted(pool, key=lambda row: (-row["quality"], row["tie"], row["row_id"]))
    draws = {
        draw: sorted(pool, key=lambda row, lot=lot: (row[lot], row["row_id"]))
        for draw in range(1, one.config.most_draws + 1)
        for lot in ["lot" if draw == 1 else f"lot{draw}"]
    }
    rank = {row["row_id"]: place for place, row in enumerate(best)}
    asked = {name: wanted(subset, best) for name, subset in one.config.subsets.items()}
    bounded = [n for n, subset in one.config.subsets.items() if subset.is_threshold]
    held: dict[str, list[str]] = {}
    for chain in ([n for n in asked if n not in bounded], bounded):
        before: list[str] = []
        drawn_before: dict[int, list[str]] = {draw: [] for draw in draws}
        for name in sorted(chain, key=lambda n: asked[n]):
            size = asked[name]
            able = eligible(one, best, size)
            if name in bounded:
                before = [i for i in able if rank[i] < size]
            else:
                before = filled(before, able, size)
            held[name] = before
            for draw, drawn in draws.items():
                able = eligible(one, drawn, size)
                drawn_before[draw] = filled(drawn_before[draw], able, len(before))
                if draw <= one.config.draws_of(name):
                    held[f"{name}-random{'' if draw == 1 else f'-{draw}'}"] = drawn_before[draw]
    return rank, held


def wanted(subset: Any, best: list[dict[str, Any]]) -> int:
    scores = [row["quality"] for row in best]
    if subset.rows is not None:
        return min(subset.rows, len(best))
    if subset.share is not None:
        return math.ceil(Fraction(str(subset.share)) * len(best))
    least = subset.min_score
    if subset.quantile is not None and scores:
        least = np.quantile(scores, subset.quantile, method="inverted_cdf")
    return sum(score >= least for score in scores)


def eligible(one: SelectSubsets, order: list[dict[str, Any]], size: int) -> list[str]:
    quota = one.config.quota
    cap = len(order) if quota is None else math.floor(Fraction(str(quota.max_share)) * size)
    seen: Counter[str | None] = Counter()
    able = []
    for row in order:
        seen[row["source"]] += 1
        if quota is None or seen[row["source"]] <= cap:
            able.append(row["row_id"])
    return able


def filled(before: list[str], able: list[str], size: int) -> list[str]:
    inside = set(before)
    return [*before, *[i for i in able if i not in inside][: size - len(before)]]


def check(one: SelectSubsets, rows: pa.Table, folder: Path, units: int) -> dict[str, list[str]]:
    found = decisions(one, rows, folder, units=units)
    rank, held = by_a_full_sort(one, rows)
    assert {row_id: made["quality_rank"] for row_id, made in found.items()} == rank
    for name, ids in held.items():
        assert {i for i, made in found.items() if name in made["subsets"]} == set(ids), name
    assert all(made["status"] is None for made in found.values())
    return held


SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, 0.75]),
    st.sampled_from([5e-324, -5e-324, 2.2e-308, 1e308, -1.7e308, -1.0]),
    st.floats(allow_nan=False, allow_infinity=False),
)
ROWS = st.lists(
    st.tuples(
        SCORES,
        st.sampled_from(["a", "b", "c", "ü"]),
        st.sampled_from(["s", "t", "u", None]),
        st.sampled_from(["train", "train", "train", "test", "validation"]),
    ),
    max_size=40,
)
SUBSETS = st.fixed_dictionaries(
    {"one": st.builds(lambda n: {"rows": n}, st.integers(1, 50))},
    optional={
        "two": st.builds(lambda n: {"rows": n}, st.integers(1, 50)),
        "part": st.builds(lambda s: {"share": s}, st.sampled_from([0.01, 0.1, 0.29, 1.0])),
        "half": st.builds(lambda q: {"quantile": q}, st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])),
        "good": st.builds(lambda m: {"min_score": m}, st.sampled_from([-1.0, -0.0, 0.5, 1e9])),
    },
)


@settings(max_examples=40, deadline=None)
@given(
    ROWS,
    SUBSETS,
    st.sampled_from([None, 0.1, 0.34, 0.5, 1.0]),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_as_by_a_full_sort(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[Made],
    subsets: dict[str, Any],
    share: float | None,
    controls: bool,
    draws: int,
    units: int,
) -> None:
    quota = None if share is None else {"column": "source", "max_share": share}
    one = stage(subsets, quota=quota, controls=controls, draws=draws)
    check(one, rows_of(made), tmp_path_factory.mktemp("t"), units)


def test_several_draws_are_different_rows_and_the_first_is_that_of_one_draw(
    tmp_path: Path,
) -> None:
    rows = rows_of([(i % 5 / 5, f"text {i}", "s", "train") for i in range(60)])
    subsets = {"half": {"share": 0.5}, "ten": {"share": 0.15}}
    held = check(stage(subsets, draws=3), rows, tmp_path / "3", units=3)
    alone = check(stage(subsets), rows, tmp_path / "1", units=1)
    assert set(held) - set(alone) == {"ten-random-2", "ten-random-3"}  # of the smallest alone
    assert {name: held[name] for name in alone} == alone
    draws = [set(held[name]) for name in ("ten-random", "ten-random-2", "ten-random-3")]
    assert [len(draw) for draw in draws] == [9, 9, 9]
    # By chance 1.35 of 9 rows are common to two draws of 60.
    assert all(len(one & other) <= 4 for one, other in combinations(draws, 2))
    more = stage({**subsets, "half": {"share": 0.5, "draws": 2}}, draws=3).config
    assert [name for name, _, _ in more.names()] == [
        "half", "ten", "half-random", "ten-random", "half-random-2", "ten-random-2", "ten-random-3"
    ]  # fmt: skip


def test_orderings_take_as_many_rows_as_the_smallest_subset_by_any_column(tmp_path: Path) -> None:
    rows = rows_of([(i % 5 / 5, f"text {i}", "s", "train") for i in range(40)])
    clarity = [None if i == 3 else math.nan if i == 4 else float((i * 7) % 40) for i in range(40)]
    lengths = [(i * 11) % 40 + 1 for i in range(40)]
    rows = rows.append_column("clarity", pa.array(clarity, pa.float64()))
    rows = rows.append_column("input_ids", pa.array([[1] * n for n in lengths]))
    config = {"orderings": ["clarity", "-clarity", "length", "-length"]}
    subsets = {"half": {"rows": 20}, "few": {"rows": 6}}
    one = stage(subsets, **config)
    assert set(one.reads) >= {"clarity", "input_ids"}
    assert not set(stage(subsets).reads) & {"clarity", "input_ids"}
    held = decisions(one, rows, tmp_path / "1", units=3)
    place = {row_id: i for i, row_id in enumerate(rows["row_id"].to_pylist())}

    def of(name: str) -> set[int]:
        return {place[i] for i, row in held.items() if name in row["subsets"]}

    # The two rows without a number are last in both directions.
    ranked = sorted((i for i in range(40) if i not in (3, 4)), key=lambda i: -clarity[i])  # type: ignore[operator]
    assert of("ordered-by-clarity") == set(ranked[:6])
    assert of("ordered-by-lowest-clarity") == set(ranked[-6:])
    longest = sorted(range(40), key=lambda i: -lengths[i])
    assert of("ordered-by-length") == set(longest[:6])
    assert of("ordered-by-lowest-length") == set(longest[-6:])
    plain = decisions(stage(subsets), rows, tmp_path / "2")
    for row_id, row in plain.items():
        assert [n for n in held[row_id]["subsets"] if not n.startswith("ordered")] == row["subsets"]


def test_which_subset_is_the_smallest_and_old_fingerprints() -> None:
    def draws(**subsets: Any) -> dict[str, int]:
        config = SelectSubsets.Config.model_validate({"subsets": subsets, "draws": 3})
        return {name: config.draws_of(name) for name in subsets}

    assert draws(a={"rows": 9}, b={"rows": 3}) == {"a": 1, "b": 3}
    assert draws(a={"min_score": 0.1}, b={"min_score": 0.9}) == {"a": 1, "b": 3}
    assert draws(a={"quantile": 0.9}, b={"quantile": 0.1}) == {"a": 3, "b": 1}
    assert draws(a={"rows": 9}, b={"share": 0.1}) == {"a": 3, "b": 1}
    identity = str(SelectSubsets.Config().identity())
    assert "draws" not in identity and "orderings" not in identity
    assert SelectSubsets.Config(draws=2).identity()["draws"] == 2
    assert SelectSubsets(draws=3).bound().config.draws_of("ultra_high_10k") == 3


@pytest.mark.parametrize("texts", [1, 1_000])
def test_all_scores_equal_do_not_end_in_one_place(tmp_path: Path, texts: int) -> None:
    """Not even where all texts are equal, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(global_order, "RANGE_ROWS", 100)
        patch.setattr(stored_tables, "PART_ROWS", 300)
        made: list[Made] = [(0.5, f"{i % texts}", "s", "train") for i in range(3_000)]
        rows, one = rows_of(made), stage({"few": {"rows": 10}, "half": {"quantile": 0.5}})
        held = check(one, rows, tmp_path / "t", units=4)
        assert len(held["few"]) == len(held["few-random"]) == 10
        assert len(held["half"]) == 3_000  # none is below the score that all have
        refs = pa.array(np.arange(3_000, dtype=np.int64))
        keys = one.keys(rows.append_column(REF, refs))
        ranged = in_ranges(tables(tmp_path / "r", [keys]), ["worse", "tie", "row_id"])
        sizes = Counter(all_rows(ranged)["range"].to_pylist())
    assert len(sizes) >= 29
    assert max(sizes.values()) < 250


def test_the_same_for_any_order_of_the_rows_and_another_draw_for_another_seed(
    tmp_path: Path,
) -> None:
    made: list[Made] = [(i % 5 / 5, f"text {i}", "s", "train") for i in range(60)]
    rows, subsets = rows_of(made), {"ten": {"rows": 10}, "third": {"share": 0.333}}
    first = decisions(stage(subsets), rows, tmp_path / "1", units=1)
    shuffled = rows.take(pa.array(np.random.default_rng(1).permutation(60)))
    assert decisions(stage(subsets), shuffled, tmp_path / "2", units=5) == first
    other = decisions(stage(subsets, seed=8), rows, tmp_path / "3")
    controls = [
        {i for i, row in one.items() if "third-random" in row["subsets"]} for one in (first, other)
    ]
    assert len(controls[0]) == len(controls[1]) == 20
    assert controls[0] != controls[1]
    assert {i: row["quality_rank"] for i, row in other.items()} == {
        i: row["quality_rank"] for i, row in first.items()
    }


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from("stuvw")), min_size=12, max_size=40),
    st.lists(st.integers(1, 40), min_size=2, max_size=4, unique=True),
    st.sampled_from([0.2, 0.25, 0.5]),
)
def test_nested_under_a_quota(
    tmp_path_factory: pytest.TempPathFactory,
    scored: list[tuple[float, str]],
    sizes: list[int],
    share: float,
) -> None:
    rows = rows_of(
        [(quality, f"{i}", source, "train") for i, (quality, source) in enumerate(scored)]
    )
    one = stage({f"of_{k}": {"rows": k} for k in sizes}, quota={"max_share": share})
    held = check(one, rows, tmp_path_factory.mktemp("t"), units=2)
    source = dict(zip(rows["row_id"].to_pylist(), rows["source"].to_pylist(), strict=True))
    for end in ("", "-random"):
        chain = [held[f"of_{k}{end}"] for k in sorted(sizes)]
        for k, smaller, larger in zip(sorted(sizes)[1:], chain, chain[1:], strict=False):
            assert set(smaller) <= set(larger)
            most = math.floor(Fraction(str(share)) * min(k, len(scored)))
            assert max(Counter(source[i] for i in larger).values(), default=0) <= most
    for k in sizes:
        assert len(held[f"of_{k}"]) == len(held[f"of_{k}-random"]) <= k


def test_where_rounding_would_break_the_nesting(tmp_path: Path) -> None:
    """Of three sources one row each; of four, two of a source: the third source's stays."""
    made: list[Made] = [
        (0.9, "a1", "a", "train"),
        (0.8, "a2", "a", "train"),
        (0.7, "b1", "b", "train"),
        (0.6, "b2", "b", "train"),
        (0.1, "c1", "c", "train"),
    ]
    one = stage({"three": {"rows": 3}, "four": {"rows": 4}}, quota={"max_share": 0.5})
    held = check(one, rows_of(made), tmp_path, units=2)
    assert set(held["three"]) < set(held["four"])
    assert len(held["four"]) == 4


@settings(max_examples=200, deadline=None)
@given(st.lists(SCORES, max_size=20))
def test_keys_sort_as_scores_do(scores: list[float]) -> None:
    keys = descending(np.array(scores, np.float64)).tolist()
    for one, key in zip(scores, keys, strict=True):
        for other, other_key in zip(scores, keys, strict=True):
            assert (key < other_key) == (one > other)
            assert (key == other_key) == (one == other)


def test_no_rows(tmp_path: Path) -> None:
    for quota in (None, {"max_share": 0.5}):
        one = stage({"few": {"rows": 10}, "half": {"quantile": 0.5}}, quota=quota)
        assert decisions(one, rows_of([]), tmp_path / str(quota)) == {}
        assert decisions(one, rows_of([(0.5, "a", "s", "test")]), tmp_path / f"{quota}-") == {}


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finite quality"):
        decisions(stage({"few": {"rows": 1}}), rows_of([(math.nan, "a", "s", "train")]), tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"subsets": {"a": {"rows": 1, "share": 0.5}}}, "found rows and share"),
        ({"subsets": {"a": {}}}, "found none of them"),
        ({"subsets": {"a": {"share": 1.5}}}, "less than or equal to 1"),
        ({"subsets": {"a": {"rows": 0}}}, "greater than or equal to 1"),
        ({"subsets": {"a": {"min_score": math.nan}}}, "finite"),
        ({"subsets": {"a/b": {"rows": 1}}}, "would be a folder"),
        ({"subsets": {"a" * 101: {"rows": 1}}}, "101 letters, 100 are allowed"),
        ({"subsets": {"con": {"rows": 1}}}, "a device on Windows"),
        ({"subsets": {"Top": {"rows": 1}, "top": {"rows": 2}}}, "one folder on some systems"),
        ({"subsets": {"a-random": {"rows": 1}}}, "names that end in -random"),
        ({"subsets": {"a-random-2": {"rows": 1}}}, "names that end in -random"),
        ({"subsets": {"a": {"rows": 1, "draws": 0}}}, "greater than or equal to 1"),
        (
            {"subsets": {"a": {"rows": 1}}, "draws": 63},
            "at most 63 subsets, controls and orderings, found 64",
        ),
        ({"subsets": {"ordered-by-x": {"rows": 1}}}, "names that begin with ordered-by-"),
        ({"orderings": ["length"], "controls": False}, "set controls to true"),
        ({"orderings": ["length", "length"]}, "twice"),
        ({"orderings": ["--length"]}, "'-' and its name"),
        ({"subsets": {}}, "1 to 32 subsets"),
        ({"quota": {"max_share": 0}}, "greater than 0"),
    ],
)
def test_configurations_that_cannot_be(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectSubsets.Config.model_validate(config)
