"""The loop on one rank: accumulation, schedule, early stopping, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from support.naive_losses import naive_loss, norm
from support.tiny_models import VOCABULARY, tiny_model, token_table

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.train.batches import BatchConfig, BatchPlan, Budget, Position, TokenRows
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.train.forward import OnlineTeacher
from ray_pipeline.train.loop import Loop, LoopConfig, World, _seed, learning_rate
from ray_pipeline.train.losses import Objective
from ray_pipeline.train.optimizers import OPTIMIZERS, make_optimizer
from ray_pipeline.train.replica import Whole

MIX = Objective(alpha=0.4664, beta=0.2081, temperature=0.7)
FAST = {"learning_rate": 1e-2, "warmup": 2, "epochs": 2}


class Killed(Exception):
    pass


def trained(
    folder=None, kill_after: int | None = None, model=None, batches=None, validation=False,
    objective=MIX, budget=None, **config,
) -> tuple[Loop, list[dict]]:  # fmt: skip
    """A short training; figures of its steps. Killed in the middle of a report, where asked."""
    model = model or tiny_model("llama", seed=1)
    plan = BatchPlan(
        TokenRows(token_table(30)),
        BatchConfig(**{"step_rows": 8, "batch_tokens": 80, **(batches or {})}),
        budget=budget,
    )
    figures: list[dict] = []

    def report(one: dict) -> None:
        figures.append(one)
        if kill_after is not None and len(figures) >= kill_after:
            raise Killed

    loop = Loop(
        Whole(model),
        plan,
        objective,
        LoopConfig(**{**FAST, **config}),
        teacher=OnlineTeacher(tiny_model("llama", seed=2), VOCABULARY),
        validation=BatchPlan(TokenRows(token_table(10, seed=5))) if validation else None,
        checkpoints=Checkpoints(Storage(str(folder)), "checkpoints") if folder else None,
        report=report,
    )
    with contextlib.suppress(Killed):
        loop.run()
    return loop, figures


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loop.model.state_dict().items()}


def same_weights(one: Loop, other: Loop, exact: bool = True) -> bool:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return all(torch.equal(a, b) if exact else torch.allclose(a, b, 1e-8, 1e-10) for a, b in pairs)


def test_a_step_is_that_of_the_effective_batch() -> None:
    """Loss and gradient norm against the definition, and weights for any accumulation."""
    whole, figures = trained(batches={"batch_tokens": 10_000}, clip_norm=None)
    for batches in (
        {"batch_tokens": 40},
        {"batch_rows": 1},
        {"layout": "packed"},
        {"layout": "left"},
    ):
        split, others = trained(batches=batches, clip_norm=None)
        for one, other in zip(figures, others, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)
            assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-8)
        assert same_weights(whole, split, exact=False)
    model = tiny_model("llama", seed=1)
    rows = whole.plan.rows
    chosen = whole.plan.step_rows(Position(0, 0))
    listed = [(rows.ids(i).tolist(), rows.mask(i).tolist()) for i in chosen]
    loss = naive_loss(model, listed, 0.4664, 0.2081, 0.7, tiny_model("llama", seed=2))
    loss.backward()
    assert figures[0]["loss"] == pytest.approx(loss.item(), rel=1e-10)
    expected = norm({name: p.grad for name, p in model.named_parameters()})
    assert figures[0]["gradient_norm"] == pytest.approx(expected, rel=1e-9)


def test_figures_add_up() -> None:
    _, figures = trained()
    assert [one["step"] for one in figures] == list(range(1, 9))
    for one in figures:
        parts = 0.4664 * one["cross_entropy"] + 0.2081 * 0.7**2 * one["kl"]
        assert one["loss"] == pytest.approx(parts)
    rows = TokenRows(token_table(30))
    assert sum(one["answer_tokens"] for one in figures) == 2 * rows.answer_tokens.sum()
    assert sum(one["tokens"] for one in figures) == 2 * rows.lengths.sum()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("killed_at", [1, 3, 4, 6])
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(
    tmp_path, killed_at, dropout
) -> None:
    def model():
        return tiny_model("llama", seed=1, attention_dropout=dropout)

    settings = {"checkpoint_every": 2, "validation": True, "evaluate_every": 3}
    whole, figures = trained(tmp_path / "whole", model=model(), **settings)
    trained(tmp_path / "killed", kill_after=killed_at, model=model(), **settings)
    resumed, rest = trained(tmp_path / "killed", model=model(), **settings)
    assert same_weights(whole, resumed)
    assert whole.progress == resumed.progress
    timeless = [{k: v for k, v in one.items() if k != "seconds"} for one in figures]
    assert [{k: v for k, v in one.items() if k != "seconds"} for one in rest] == timeless[
        -len(rest) :
    ]


@pytest.mark.parametrize("killed_at", [1, 4, 7])
def test_a_killed_training_with_a_budget_resumes_to_the_same_weights(tmp_path, killed_at) -> None:
    """Its steps go over the ends of epochs: 9 steps, in some two passes over the rows."""
    settings = {
        "budget": Budget(700, 9),
        "epochs": 1,
        "checkpoint_every": 2,
        "validation": True,
        "evaluate_every": 4,
    }
    whole, figures = trained(tmp_path / "whole", **settings)
    steps = [one for one in figures if "tokens" in one]
    assert len(steps) == 9 and whole.plan.rows.lengths.sum() < 700
    assert whole.stopped == "epochs" and {one["total_steps"] for one in steps} == {9}
    longest = int(whole.plan.rows.lengths.max())
    assert 700 <= sum(one["tokens"] for one in steps) < 700 + longest
    trained(tmp_path / "killed", kill_after=killed_at, **settings)
    resumed, rest = trained(tmp_path / "killed", **settings)
    assert same_weights(whole, resumed) and whole.progress == resumed.progress
    assert [one["step"] for one in rest] == [one["step"] for one in figures][-len(rest) :]
    with pytest.raises(UserError, match=r"budget \(was \[700, 9\], is \[700, 8\]\)"):
        trained(tmp_path / "killed", **settings | {"budget": Budget(700, 8)})


def test_a_step_of_a_budget_is_divided_by_its_own_answer_tokens() -> None:
    loop, figures = trained(budget=Budget(700, 9), epochs=1, clip_norm=None)
    listed = [
        (loop.plan.rows.ids(i).tolist(), loop.plan.rows.mask(i).tolist())
        for i in loop.plan.step_rows(Position(0, 0))
    ]
    teacher = tiny_model("llama", seed=2)
    loss = naive_loss(tiny_model("llama", seed=1), listed, 0.4664, 0.2081, 0.7, teacher)
    assert figures[0]["loss"] == pytest.approx(loss.item(), rel=1e-10)


def test_a_finished_run_is_not_trained_again_and_more_epochs_go_on(tmp_path) -> None:
    first, _ = trained(tmp_path, schedule="constant")
    again, figures = trained(tmp_path, schedule="constant")
    assert figures == [] and same_weights(first, again)
    longer, figures = trained(tmp_path, schedule="constant", epochs=3)
    assert [one["step"] for one in figures] == [9, 10, 11, 12]
    assert same_weights(longer, trained(schedule="constant", epochs=3)[0])


def test_checkpoints_of_another_training_are_refused(tmp_path) -> None:
    trained(tmp_path)
    with pytest.raises(UserError, match=r"learning_rate \(was 0.01, is 0.1\)"):
        trained(tmp_path, learning_rate=0.1)
    with pytest.raises(UserError, match="step_rows"):
        trained(tmp_path, batches={"step_rows": 4})
    with pytest.raises(UserError, match="beta"):
        trained(tmp_path, objective=Objective())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns_and_resumes_exactly(tmp_path, optimizer) -> None:
    settings = {"optimizer": optimizer, "checkpoint_every": 2, "epochs": 6}
    whole, figures = trained(tmp_path / "whole", **settings)
    assert figures[-1]["loss"] < figures[0]["loss"]
    trained(tmp_path / "killed", kill_after=5, **settings)
    resumed, rest = trained(tmp_path / "killed", **settings)
    assert rest[0]["step"] == 5 and same_weights(whole, resumed)


def test_the_optimizer_is_part_of_the_identity_where_it_is_not_the_first_one(tmp_path) -> None:
    assert "optimizer" not in LoopConfig().identity()
    assert LoopConfig(optimizer="sgd").identity()["optimizer"] == "sgd"
    loop, _ = trained(tmp_path, checkpoint_every=1)
    state = loop.checkpoints.latest()
    del state["identity"]["optimizer"]  # as checkpoints were before there was a choice
    loop.checkpoints.save(8, state)
    _, figures = trained(tmp_path, checkpoint_every=1)
    assert figures == []
    with pytest.raises(UserError, match=r"optimizer \(was adamw, is sgd\)"):
        trained(tmp_path, optimizer="sgd")


def test_a_torn_checkpoint_is_passed_over_and_old_ones_go(tmp_path) -> None:
    whole, _ = trained(tmp_path, checkpoint_every=1)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000007.pt", "step-00000008.pt"]
    last = tmp_path / "checkpoints" / names[-1]
    last.write_bytes(last.read_bytes()[:-2000])
    resumed, figures = trained(tmp_path, checkpoint_every=1)
    assert [one["step"] for one in figures] == [8]
    assert same_weights(whole, resumed)


@pytest.mark.parametrize("stored", [True, False])
def test_early_stopping_keeps_the_best_weights(tmp_path, stored) -> None:
    folder = tmp_path if stored else None
    loop, figures = trained(
        folder, validation=True, evaluate_every=1, learning_rate=0.3, epochs=20,
        schedule="constant", patience=3,
    )  # fmt: skip
    progress = loop.progress
    losses = [one["validation_loss"] for one in figures if "validation_loss" in one]
    assert loop.stopped == "patience" and progress.steps == progress.best_step + 3
    assert progress.best_loss == min(losses) == losses[progress.best_step - 1]
    before = progress.best_loss
    loop._evaluate()
    assert progress.evaluations[-1]["validation_loss"] == pytest.approx(before, rel=1e-12)


def test_in_pieces_it_is_the_same_training() -> None:
    whole, figures = trained(validation=True, evaluate_every=3)
    expected = [one for one in figures if "validation_loss" in one]

    def loop() -> Loop:
        model, more = tiny_model("llama", seed=1), {"validation": whole.validation}
        return Loop(Whole(model), whole.plan, MIX, whole.config, teacher=whole.teacher, **more)

    pieces, seen = loop(), []
    for evaluation in pieces.evaluations():
        seen.append({**evaluation, "best": pieces.progress.worse == 0})
        assert pieces.finished == (len(seen) == len(expected))
    assert seen == expected and pieces.progress == whole.progress

    left = loop()
    state = torch.get_rng_state()
    evaluations = left.evaluations()
    next(evaluations)
    assert not torch.equal(torch.get_rng_state(), state)
    evaluations.close()
    assert torch.equal(torch.get_rng_state(), state) and not left.finished


def test_max_steps_stops_and_the_schedule_ends_there() -> None:
    loop, figures = trained(max_steps=5)
    assert len(figures) == 5 and loop.stopped == "max_steps"
    assert figures[-1]["learning_rate"] < 0.3 * FAST["learning_rate"]


def test_learning_rates() -> None:
    config = LoopConfig(learning_rate=1.0, warmup=0.2, schedule="linear")
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates == pytest.approx(
        [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    cosine = LoopConfig(learning_rate=1.0, warmup=0, schedule="cosine")
    assert learning_rate(cosine, 5, 10) == pytest.approx(0.5)
    assert learning_rate(cosine, 0, 10) == 1
    assert learning_rate(LoopConfig(warmup=0, schedule="constant"), 7, 10) == 6.795e-5


def test_a_run_away_loss_stops_the_run() -> None:
    model = tiny_model("llama", seed=1)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = math.nan
    with pytest.raises(RunError, match="step 1: loss nan"):
        trained(model=model)


def test_what_cannot_be_trained_is_refused() -> None:
    plan = BatchPlan(TokenRows(token_table(4)))
    with pytest.raises(UserError, match="bfloat16"):
        Loop(Whole(tiny_model().bfloat16()), plan)
    with pytest.raises(UserError, match="all are frozen"):
        Loop(Whole(tiny_model().requires_grad_(False)), plan)
    with pytest.raises(ValueError, match="all_reduce"):
        World(0, 2)


def test_bfloat16_autocast_learns(tmp_path) -> None:
    _, exact = trained(model=tiny_model("llama", seed=1).float())
    _, rough = trained(model=tiny_model("llama", seed=1).float(), precision="bfloat16")
    assert rough[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.1)


def test_training_does_not_disturb_the_callers_random_numbers() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = tiny_model("llama", seed=1)
    torch.set_rng_state(before)
    plan = BatchPlan(TokenRows(token_table(4)))
    Loop(Whole(model), plan, config=LoopConfig(epochs=1)).run()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("clip_norm", [1e-3, 2e-3, None])
def test_a_step_is_no_longer_than_the_clipped_gradient(clip_norm: float | None) -> None:
    start = tiny_model("llama", seed=1).state_dict()
    loop, (figures,) = trained(
        optimizer="sgd", weight_decay=0.0, max_steps=1, clip_norm=clip_norm, validation=False
    )
    squares = (
        float((value.detach() - start[name]).square().sum())
        for name, value in loop.model.named_parameters()
    )
    length = math.sqrt(math.fsum(squares)) / figures["learning_rate"]
    expected = figures["gradient_norm"] if clip_norm is None else clip_norm
    assert figures["gradient_norm"] > 0.01  # as it was before
    assert length == pytest.approx(expected, rel=1e-3)


def test_norms_and_biases_have_no_weight_decay() -> None:
    matrix, vector = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,)))
    for name in OPTIMIZERS:
        for parameter in (matrix, vector):
            torch.nn.init.ones_(parameter)
            parameter.grad = torch.zeros_like(parameter)
        make_optimizer(name, [matrix, vector], 0.1, 0.5).step()
        assert torch.allclose(matrix, torch.full((2, 2), 0.95))
        assert torch.equal(vector, torch.ones(2))


def test_every_step_of_every_rank_drops_out_its_own_units() -> None:
    seeds = {_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
    assert len(seeds) == 27 and _seed(1, 2, 0) == _seed(1, 2, 0)
