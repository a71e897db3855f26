"""The plan of an epoch: every row once, the same steps for any number of ranks, exact resume."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES
from support.tiny_models import token_table

from ray_pipeline.core.errors import UserError
from ray_pipeline.train.batches import BatchConfig, BatchPlan, Budget, Position, TokenRows


def plan(rows: int = 101, seed: int = 1, **config) -> BatchPlan:
    defaults = {"step_rows": 16, "batch_tokens": 64}
    return BatchPlan(TokenRows(token_table(rows)), BatchConfig(**{**defaults, **config}), seed)


def of_epoch(made: BatchPlan, epoch: int, world: int) -> list[list[int]]:
    """Rows of each step, gathered from all ranks' micro-batches."""
    steps = []
    for step in range(made.steps(epoch)):
        parts = [made.micro_batches(Position(epoch, step), r, world) for r in range(world)]
        assert len({len(part) for part in parts}) == 1  # every rank has equally many
        steps.append(sorted(int(row) for part in parts for rows in part for row in rows))
    return steps


sizes = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 70),
        "batch_tokens": st.integers(20, 200),
        "window_steps": st.integers(1, 3),
        "layout": st.sampled_from(["right", "left", "packed"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 20), st.booleans(), st.integers(1, 5))
def test_every_row_once_an_epoch_and_the_same_steps_for_any_world(
    config: dict, size: int, by_tokens: bool, world: int
) -> None:
    step = {"step_rows": None, "step_tokens": size * 7} if by_tokens else {"step_rows": size}
    made = plan(**config, **step)
    for epoch in (0, 1):
        steps = of_epoch(made, epoch, 1)
        assert sorted(row for rows in steps for row in rows) == list(range(config["rows"]))
        assert of_epoch(made, epoch, world) == steps
        assert all(steps)
    assert made.total_steps(2) == made.steps(0) + made.steps(1)


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(sizes, st.integers(1, 3_000), st.integers(1, 200), st.integers(1, 5), st.integers(0, 3))
def test_a_budget_is_spent_in_equal_shares_for_any_rows_and_any_world(
    config: dict, tokens: int, step_tokens: int, world: int, seed: int
) -> None:
    rows = TokenRows(token_table(config["rows"]))
    longest = int(rows.lengths.max())
    budget = Budget.of(tokens, step_tokens, longest)
    sizes = BatchConfig(step_rows=16, **{k: v for k, v in config.items() if k != "rows"})
    made = BatchPlan(rows, sizes, seed, budget)
    steps = of_epoch(made, 0, 1)
    assert len(steps) == made.total_steps(1) == budget.steps
    assert all(steps) and of_epoch(made, 0, world) == steps
    seen = np.cumsum(
        [rows.lengths[made.step_rows(Position(0, n))].sum() for n in range(len(steps))]
    )
    assert tokens <= seen[-1] < tokens + longest
    if config["window_steps"] == 1:
        shares = tokens * np.arange(1, len(steps) + 1) / budget.steps
        assert np.all(shares <= seen) and np.all(seen < shares + longest)
    times = np.bincount([row for of_step in steps for row in of_step], minlength=len(rows))
    assert times.max() - times.min() <= 1  # none is seen twice more than another
    assert made.following(Position(0, budget.steps - 1)) == Position(1, 0)
    assert 0 < made.real_share() <= 1


def test_a_budget_begins_with_the_order_of_the_first_epoch_and_then_shuffles_again() -> None:
    rows = TokenRows(token_table(40))
    whole = int(rows.lengths.sum())
    of_budget = BatchPlan(rows, BatchConfig(step_rows=8), 3, Budget(2 * whole, 4))
    of_epochs = BatchPlan(rows, BatchConfig(step_rows=8), 3)
    spent = np.concatenate([of_budget.step_rows(Position(0, n)) for n in range(4)])
    passes = [
        np.concatenate([of_epochs.step_rows(Position(e, n)) for n in range(5)]) for e in (0, 1)
    ]
    assert spent.tolist() == np.concatenate(passes).tolist()


def test_a_budget_whose_steps_a_row_does_not_fit_is_refused() -> None:
    rows = TokenRows(token_table(10))
    longest = int(rows.lengths.max())
    with pytest.raises(UserError, match=f"a row has {longest} tokens, and each of 9 steps has"):
        BatchPlan(rows, BatchConfig(), 0, Budget(9 * longest - 1, 9))
    BatchPlan(rows, BatchConfig(), 0, Budget(9 * longest, 9))
    assert Budget.of(100, 10, longest=50) == Budget(100, 2)
    assert Budget.of(3, 10, longest=50) == Budget(3, 1)
    assert Budget.of(100, 10, longest=10) == Budget(100, 10)


def test_steps_do_not_depend_on_the_size_of_micro_batches() -> None:
    assert of_epoch(plan(batch_tokens=20), 0, 1) == of_epoch(plan(batch_tokens=999), 0, 1)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = of_epoch(plan(), 0, 1)
    assert first == of_epoch(plan(), 0, 2)
    assert first != of_epoch(plan(), 1, 1)
    assert first != of_epoch(plan(seed=2), 0, 1)


def test_the_last_step_is_smaller_and_not_left_out() -> None:
    assert [len(rows) for rows in of_epoch(plan(rows=40), 0, 1)] == [16, 16, 8]


def test_any_position_gives_the_exact_next_batch() -> None:
    made, again = plan(), plan()
    position, seen = Position(), []
    while position.epoch < 2:
        seen.append((position, [rows.tolist() for rows in made.micro_batches(position)]))
        position = made.following(position)
    for at, batches in reversed(seen):
        assert [rows.tolist() for rows in again.micro_batches(at)] == batches


def test_ranks_get_about_equal_work() -> None:
    made = plan(rows=400, step_rows=100)
    for step in range(made.steps(0)):
        work = [
            sum(made._cost(rows) for rows in made.micro_batches(Position(0, step), rank, 3))
            for rank in range(3)
        ]
        assert max(work) <= 1.25 * min(work)


def test_similar_lengths_share_a_batch() -> None:
    assert plan(rows=2000, step_rows=256, batch_tokens=256).real_share() > 0.9
    small = {"rows": 2000, "step_rows": 16, "batch_tokens": 256}
    assert plan(**small, window_steps=16).real_share() > 0.93 > plan(**small).real_share() + 0.03
    assert plan(layout="packed").real_share() == 1


def test_batches_hold_no_more_than_allowed() -> None:
    made = plan(batch_tokens=64, batch_rows=5)
    for batch in made.batches(Position(0, 0)):
        assert batch.input_ids.numel() <= 64 and len(batch.rows) <= 5


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_a_batch_has_the_rows_tokens_and_targets_in_their_order(layout) -> None:
    rows = TokenRows(token_table(9))
    chosen = [3, 0, 7]
    batch = rows.batch(chosen, layout, pad=66)
    targets = [rows.ids(row)[1:][rows.mask(row)[1:]] for row in chosen]
    assert batch.targets.tolist() == np.concatenate(targets).tolist()
    assert len(batch.targets) == rows.answer_tokens[chosen].sum()
    starts = (batch.position_ids == 0) & (
        torch.ones_like(batch.position_ids) if layout == "packed" else batch.attention_mask
    ).bool()
    assert batch.input_ids[starts].tolist() == [rows.ids(row)[0] for row in chosen]


def test_validation_sees_every_row_once_on_any_number_of_ranks() -> None:
    made = plan()
    for world in (1, 3):
        seen = [row for rank in range(world) for b in made.in_order(rank, world) for row in b.rows]
        assert sorted(seen) == list(range(101))


def test_dropped_rows_are_left_out_and_none_left_is_an_error() -> None:
    table = token_table(3)
    marked = table.append_column("status", pa.array(["kept", "dropped", "kept"]))
    assert TokenRows(marked).row_ids.to_pylist() == ["row-0", "row-2"]
    with pytest.raises(UserError, match="no rows to train on"):
        TokenRows(table.slice(0, 0))


def test_a_row_that_fits_no_batch_is_named() -> None:
    with pytest.raises(UserError, match="batch_tokens = 10"):
        plan(batch_tokens=10)
    with pytest.raises(ValueError, match="one of step_rows and step_tokens"):
        BatchConfig(step_rows=None)


def test_sliced_tables_are_read_right() -> None:
    table = token_table(10)
    whole, part = TokenRows(table), TokenRows(table.slice(4, 3))
    assert [part.ids(i).tolist() for i in range(3)] == [whole.ids(i + 4).tolist() for i in range(3)]
    assert part.answer_tokens.tolist() == whole.answer_tokens[4:7].tolist()
