"""Training from scratch on a part of the rows: models, subsets, tokens, last weights, tests."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.tiny_experiment import MODEL, place, stage, tiny_rows
from support.tiny_models import tiny_model, token_table, word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import rows_containing
from ray_pipeline.train.batches import BatchConfig, BatchPlan, Budget, TokenRows
from ray_pipeline.train.census import take_census
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.train.chosen_rows import token_rows
from ray_pipeline.train.job import ModelSource, Pace, Training, train
from ray_pipeline.train.loop import Loop, LoopConfig, World, warmup_steps
from ray_pipeline.train.replica import Whole
from ray_pipeline.train.scratch import ScratchConfig
from ray_pipeline.train.student import parameter_count


def test_parameters_are_counted_without_building() -> None:
    config = ScratchConfig(**MODEL)
    model = config.build(word_tokenizer(), 50, seed=1)
    assert config.parameters(50) == parameter_count(model)
    assert ScratchConfig().parameters(50_257) == 498_545_920
    with pytest.raises(ValueError, match=r"n_embd \(32\) is no multiple of n_head \(5\)"):
        ScratchConfig(n_embd=32, n_head=5)


def test_the_seed_draws_the_weights() -> None:
    config = ScratchConfig(**MODEL)
    one, same, other = (config.build(word_tokenizer(), 50, seed=seed) for seed in (1, 1, 2))
    weights = [model.transformer.wte.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_gradient_checkpointing_changes_no_gradient(tmp_path) -> None:
    word_tokenizer().save_pretrained(tmp_path)
    losses = []
    for checkpointing in (False, True):
        source = ModelSource(
            str(tmp_path), scratch=ScratchConfig(**MODEL), gradient_checkpointing=checkpointing
        )
        model = source.build(Storage(str(tmp_path)), 3)
        assert model.is_gradient_checkpointing == checkpointing
        figures: list[dict] = []
        plan = BatchPlan(TokenRows(token_table(8, vocabulary=20)), BatchConfig(step_rows=4))
        config = LoopConfig(epochs=2, learning_rate=1e-2)
        Loop(Whole(model), plan, config=config, report=figures.append).run()
        losses.append([one["gradient_norm"] for one in figures])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_rows_of_a_subset() -> None:
    lists = [["a"], [], None, ["b", "a"], ["b"], ["a", "a"]]
    table = pa.table({"n": range(6), "of": pa.array(lists, pa.list_(pa.string()))})
    assert rows_containing(table, "of", "a")["n"].to_pylist() == [0, 3, 5]
    assert rows_containing(table.slice(2), "of", "a")["n"].to_pylist() == [3, 5]
    cut = pa.concat_tables([table.slice(3), table.slice(0, 3)])
    assert rows_containing(cut, "of", "b")["n"].to_pylist() == [3, 4]
    assert rows_containing(table, "of", "c").num_rows == 0


def test_a_subset_is_trained_on_and_nothing_else(tmp_path) -> None:
    rows = tiny_rows(tmp_path)
    few = token_rows(rows, "train", "few").row_ids.to_pylist()
    assert few == [f"row-{i}" for i in range(8)]
    control = token_rows(rows, "train", "many-random").row_ids.to_pylist()
    assert control == [f"row-{i}" for i in range(16, 40)]
    with pytest.raises(UserError, match="no train rows of subset 'none'"):
        token_rows(rows, "train", "none")


def test_a_census_counts_what_is_trained_on(tmp_path) -> None:
    rows = tiny_rows(tmp_path)
    census = take_census(rows, ["few", "many-random", "none"])
    tokens = token_rows(rows, "train", "many-random")
    part = census.subsets["many-random"]
    assert (part.rows, part.tokens) == (24, tokens.lengths.sum())
    assert census.subsets["none"].rows == 0
    assert (census.validation.rows, census.test.rows) == (6, 5)
    again = take_census(rows, ["few", "many"])
    assert again.subsets["few"].digest == census.subsets["few"].digest
    assert again.subsets["many"].digest != part.digest


def test_the_schedule_knows_its_end() -> None:
    plan = BatchPlan(TokenRows(token_table(24)), BatchConfig(step_rows=4))
    config = LoopConfig(epochs=5, warmup=1000)
    assert Pace().of(config, plan) == config
    made = Pace(evaluations=4, warmup_share=1 / 3).of(config, plan)
    assert (made.evaluate_every, made.warmup, made.max_steps) == (8, 10, None)
    budget = Budget(int(plan.rows.lengths.sum()) + 1, 7)
    spent = BatchPlan(plan.rows, plan.config, budget=budget)
    made = Pace(budget, evaluations=4, warmup_share=1 / 3).of(config, spent)
    assert (made.epochs, made.max_steps, made.evaluate_every, made.warmup) == (1, None, 2, 2)
    assert warmup_steps(made, 7) == 2 and warmup_steps(LoopConfig(warmup=0.5), 7) == 4
    assert Pace(warmup_share=0.1).of(LoopConfig(warmup=0.5), plan).warmup == 0.5


def test_the_last_weights_are_kept_where_they_are_wanted(tmp_path) -> None:
    """After an evaluation that was better, in memory and with checkpoints."""
    final = {}
    for keep in ("best", "last"):
        for folder in (None, tmp_path / keep):
            model = tiny_model("gpt2", seed=1)
            loop = Loop(
                Whole(model),
                BatchPlan(TokenRows(token_table(12)), BatchConfig(step_rows=4)),
                config=LoopConfig(learning_rate=0.3, epochs=6, warmup=0, schedule="constant",
                                  patience=None, evaluate_every=1),
                validation=BatchPlan(TokenRows(token_table(10, seed=5))),
                checkpoints=Checkpoints(Storage(str(folder))) if folder else None,
                keep=keep,
            )  # fmt: skip
            loop.run()
            assert loop.progress.best_step < loop.progress.steps
            if folder is not None:
                kept = Checkpoints(Storage(str(folder))).steps()
                assert kept[-2:] == [17, 18] and (len(kept) == 3) == (keep == "best")
            final[keep, folder is None] = next(model.parameters()).detach().clone()
    assert torch.equal(final["best", True], final["best", False])
    assert torch.equal(final["last", True], final["last", False])
    assert not torch.equal(final["best", True], final["last", True])


class Killed(Exception):
    pass


def test_what_a_training_leaves_and_that_it_goes_on_in_mid_epoch(tmp_path) -> None:
    """The same losses to the last bit, on validation rows and on test rows, after two deaths."""
    made = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        rows = tiny_rows(tmp_path / name)
        trainer = stage(tmp_path / name, loop={"checkpoint_every": 2})
        cells = trainer.cells(take_census(rows, trainer.names), rows, place(tmp_path / name))
        (cell,) = (one for one in cells if one.name == "many.tokens.seed1.lr0.001")
        deaths = [3, 5] if name == "killed" else []
        while cell.job.finished() is None:
            dies = deaths.pop(0) if deaths else None

            def report(figures: dict, dies: int | None = dies) -> None:
                if figures["step"] == dies:
                    raise Killed

            try:
                train(cell.job, World(), "cpu", report)
            except Killed:
                continue
        cell.finish()
        written = cell.record()
        assert written is not None
        record = written.to_json()
        assert not (tmp_path / name / "work" / cell.name / "checkpoints").exists()
        made[name] = {key: value for key, value in record.items() if key != "seconds"}
        made[name]["curve"] = [(p["step"], p["tokens"], p["loss"]) for p in record["curve"]]
        json.dumps(record, allow_nan=False)
    assert made["whole"] == made["killed"]
    record = made["whole"]
    # `few` in two epochs is the budget: 8 rows of 24, so the training ends within its first epoch.
    census = take_census(rows, ["few"])
    budget = 2 * census.subsets["few"].tokens
    assert record["curve"][-1][:2] == (record["steps"], record["tokens_seen"])
    assert budget <= record["tokens_seen"] < budget + 4 * 20
    assert 2 <= len(record["curve"]) <= 3 and record["validation_loss"] == record["curve"][-1][2]
    assert record["parameters"] == ScratchConfig(**MODEL).parameters(
        max(word_tokenizer().get_vocab().values()) + 1
    )
    assert record["test_tokens"] == token_rows(rows, "test").answer_tokens.sum()
    assert math.isfinite(record["test_loss"])


def test_a_training_that_diverges_leaves_its_curve(tmp_path) -> None:
    rows = tiny_rows(tmp_path)
    trainer = stage(tmp_path, learning_rates=[1e30], seeds=[1], modes=["epochs"])
    cell = trainer.cells(take_census(rows, trainer.names), rows, place(tmp_path))[0]
    with pytest.raises(Exception, match="loss") as caught:
        list(Training(cell.job, World(), "cpu", lambda figures: None).evaluations())
    cell.finish(diverged=str(caught.value))
    record = cell.record()
    assert record is not None and record.steps >= 1 and record.model is None
    assert record.diverged_because == str(caught.value)
    assert record.test_loss is None and record.validation_loss is None
    assert np.isfinite(record.tokens_seen)
