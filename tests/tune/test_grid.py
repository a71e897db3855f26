"""The experiment's grid: cells, what is refused, kills, and that it equals its jobs one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.command import TESTS
from support.fork_server import Started
from support.stored_parts import put_part
from support.tiny_experiment import SIZES, place, stage, tiny_rows

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import is_ordering
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stages.experiment.config import TrainSubsetsConfig
from ray_pipeline.stages.experiment.cost import TrainingCost, subset_rows
from ray_pipeline.stages.training.split import Split
from ray_pipeline.train.batches import Budget
from ray_pipeline.train.census import Census, PartOfRows, take_census
from ray_pipeline.train.job import WorkersConfig, train
from ray_pipeline.train.loop import World
from ray_pipeline.tune import grid
from ray_pipeline.tune.cells import CellTraining, distinct, forget_others
from ray_pipeline.tune.runner import TrialWorkers

TIMES = {"seconds", "curve"}


def cells_of(folder: Path, **config: Any) -> list[CellTraining]:
    rows, trainer = tiny_rows(folder), stage(folder, **config)
    return trainer.cells(take_census(rows, trainer.names), rows, place(folder))


def table(cells: list[CellTraining]) -> dict[str, Any]:
    """The final table: all records without times."""
    records = {cell.name: record.to_json() for cell in cells if (record := cell.record())}
    return {
        name: {key: value for key, value in record.items() if key not in TIMES}
        | {"losses": [(p["step"], p["tokens"], p["loss"]) for p in record["curve"]]}
        for name, record in records.items()
    }


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The table of an experiment whose jobs were run one after another in this process."""
    folder = tmp_path_factory.mktemp("calm")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cells = cells_of(folder)
    for cell in distinct(cells):
        train(cell.job, World(), "cpu", lambda figures: None)
        cell.finish()
    grid.share_records(cells)
    torch.set_num_threads(threads)
    return table(cells)


def test_cells_are_every_subset_seed_rate_and_mode(tmp_path) -> None:
    cells = cells_of(tmp_path, learning_rates=[1e-3, 1e-4])
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 2 * 2 * 2 * 2
    assert cells[0].name == "few.epochs.seed1.lr0.001"
    assert {cell.plan.of for cell in cells} == set(SIZES)
    kept = [cell.job.name for cell in cells if cell.job.name is not None]
    assert kept == [cell.name for cell in cells if cell.plan.seed == 1]
    select = {"subsets": {name: {"rows": size} for name, size in SIZES.items()}, "draws": 3}
    with_draws = cells_of(tmp_path, select=select, learning_rates=[1e-3, 1e-4])
    assert len(with_draws) == 32 + 16 and {cell.plan.of for cell in with_draws} == set(SIZES)
    assert [cell.job.name for cell in with_draws if cell.job.name is not None] == kept
    assert not any(cell.job.name for cell in cells_of(tmp_path, keep_models="none"))
    (order,) = {cell.job.loop.patience for cell in cells}
    assert order is None  # nothing that looks at validation rows stops a training


def test_orderings_are_trained_in_the_mode_tokens_and_priced(tmp_path) -> None:
    sizes = {name: {"rows": size} for name, size in SIZES.items()}
    select = {"subsets": sizes, "orderings": ["clarity", "-length"]}
    trainer = stage(tmp_path, select=select)
    assert trainer.names[-2:] == ["ordered-by-clarity", "ordered-by-lowest-length"]
    census = Census(
        {name: PartOfRows(8, 90, 20) for name in trainer.names}, PartOfRows(), PartOfRows()
    )
    cells = trainer.cells(census, tiny_rows(tmp_path), place(tmp_path))
    ordered = [cell for cell in cells if is_ordering(cell.plan.subset)]
    assert {cell.plan.mode for cell in ordered} == {"tokens"} and len(ordered) == 2 * 2
    assert {cell.job.name for cell in ordered} == {None}
    budgets = {cell.job.pace.budget for cell in cells if cell.plan.mode == "tokens"}
    assert len(budgets) == 1
    sample = pa.table({"input_ids": [[1] * 10] * 40, "quality": [0.1] * 40})
    told = trainer.estimate(sample, 1)
    assert told.startswith("20 trainings") and "; of these for orderings 4 trainings: " in told
    assert "mode tokens: 4 updates in each training" in told
    assert "orderings" not in stage(tmp_path).estimate(sample, 1)
    with pytest.raises(UserError, match=r"select-subsets\.orderings: .* add tokens to modes"):
        stage(tmp_path, select=select, modes=["epochs"]).check()


def test_the_settings_are_the_seeds() -> None:
    config = TrainSubsetsConfig(settings={"mine": {"epochs": 4}})
    made = {
        (name, rows): (one.epochs, one.learning_rate)
        for name, rows in {
            "ultra_high_10k": 10_000, "high_100k": 100_000, "medium_1m": 50_000,
            "small": 9, "middle": 60_000, "large": 400_000, "mine": 10,
        }.items()
        for one in [config.settings_of(name, rows)]
    }  # fmt: skip
    assert made == {
        ("ultra_high_10k", 10_000): (10, 1e-4),
        ("high_100k", 100_000): (3, 2e-4),
        ("medium_1m", 50_000): (1, 2e-4),
        ("small", 9): (10, 1e-4),
        ("middle", 60_000): (3, 2e-4),
        ("large", 400_000): (1, 2e-4),
        ("mine", 10): (4, 1e-4),
    }
    assert (config.loop.warmup, config.loop.weight_decay) == (1000, 0.01)
    assert TrainSubsetsConfig(batches={"batch_tokens": 600}).batches.step_rows == 32


def test_with_one_budget_every_cell_has_the_same_tokens_updates_and_schedule(one_by_one) -> None:
    budgeted = [r for r in one_by_one.values() if r["mode"] == "tokens"]
    budget = 2 * one_by_one["few.epochs.seed1.lr0.001"]["tokens"]
    assert all(budget <= r["tokens_seen"] < budget + 20 for r in budgeted)  # 20: the longest row
    same = ("steps", "learning_rate", "schedule", "warmup_steps")
    assert {tuple(r[name] for name in same) for r in budgeted} == {(4, 1e-3, "linear", 1)}
    assert len(budgeted) == 8


def test_the_settings_of_the_smallest_subset_are_those_of_the_mode_tokens(tmp_path) -> None:
    settings = {
        "few": {"epochs": 2, "learning_rate": 1e-3, "evaluate_every": 1},
        "many": {"epochs": 1, "learning_rate": 2e-3},
    }
    made = {cell.name: cell.job for cell in cells_of(tmp_path, settings=settings, seeds=[1])}
    assert set(made) == {
        "few.epochs.seed1.lr0.001", "few.tokens.seed1.lr0.001",
        "few-random.epochs.seed1.lr0.001", "few-random.tokens.seed1.lr0.001",
        "many.epochs.seed1.lr0.002", "many.tokens.seed1.lr0.001",
        "many-random.epochs.seed1.lr0.002", "many-random.tokens.seed1.lr0.001",
    }  # fmt: skip
    assert made["many.epochs.seed1.lr0.002"].loop.evaluate_every is None
    assert made["many.tokens.seed1.lr0.001"].loop.evaluate_every == 1
    (budget,) = {job.pace.budget for name, job in made.items() if ".tokens." in name}
    assert budget is not None and made["many.epochs.seed1.lr0.002"].pace.budget is None


def test_cells_that_are_one_training_are_trained_once(tmp_path) -> None:
    """A control that has exactly its subset's rows is no second training."""
    select = {"subsets": {"all": {"rows": 40}, "more": {"rows": 41}}, "controls": False}
    tiny_rows(tmp_path)
    for name in ("one", "two"):
        rows = pq.read_table(tmp_path / f"{name}.parquet")
        both = [["all", "more"] if s == "train" else None for s in rows["split"].to_pylist()]
        at = rows.schema.get_field_index("subsets")
        rows = rows.set_column(at, "subsets", pa.array(both, pa.list_(pa.string())))
        put_part(tmp_path / f"{name}.parquet", rows)
    stored = StoredRows(Storage(str(tmp_path)), ("one.parquet", "two.parquet"), "digest")
    settings = {name: {"epochs": 2, "learning_rate": 1e-3} for name in ("all", "more")}
    trainer = stage(tmp_path, select=select, settings=settings, seeds=[1])
    cells = trainer.cells(take_census(stored, trainer.names), stored, place(tmp_path))
    first, *_ = kept = distinct(cells)
    assert len(cells) == 4 and len(kept) == 2
    train(first.job, World(), "cpu", lambda figures: None)
    first.finish()
    grid.share_records([cell for cell in cells if cell.digest == first.digest])
    twin = next(cell for cell in cells if cell.digest == first.digest and cell is not first)
    record = twin.record()
    assert record is not None and record.trained_as == first.name != record.name


def test_the_steps_of_a_budget_are_part_of_a_cells_identity(tmp_path) -> None:
    """Until version 2 of the stage steps were rows, and the digest held the tokens alone."""
    cell = next(cell for cell in cells_of(tmp_path) if cell.plan.mode == "tokens")
    budget = cell.job.pace.budget
    assert budget is not None

    def of(changed: Budget | None) -> str:
        return replace(
            cell, job=replace(cell.job, pace=replace(cell.job.pace, budget=changed))
        ).digest

    others = [
        None,
        Budget(budget.tokens, budget.steps + 1),
        Budget(budget.tokens + 1, budget.steps),
    ]
    assert len({cell.digest, *map(of, others)}) == 4
    assert stage(tmp_path).version == 2


def test_a_cell_is_told_apart_by_what_it_depends_on(tmp_path) -> None:
    def digests(**config: Any) -> list[str]:
        return [cell.digest for cell in cells_of(tmp_path, **config)]

    mine = digests()
    assert mine == digests(num_cpus=2, batches={"step_rows": 4, "batch_tokens": 64})
    assert mine[:1] == digests(seeds=[1, 3])[:1]
    for changed in (
        {"evaluations": 4},
        {"batches": {"step_rows": 8}},
        {"loop": {"weight_decay": 0.1}},
        {"model": {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32}},
        {"text": {"max_tokens": 31}},
    ):
        assert not set(mine) & set(digests(**changed)), changed


def test_cells_that_an_earlier_version_trained_are_reused(tmp_path) -> None:
    """The digests are those of records that it wrote (see tests/evaluate/experiment)."""
    digests = {cell.name: cell.digest for cell in cells_of(tmp_path)}
    assert digests["few.epochs.seed1.lr0.001"] == "a3770ca3f2c46632e98e38d83da5b958"
    assert digests["few-random.epochs.seed2.lr0.001"] == "7931a410ff9c55fff8cc555e00d92072"


def test_records_of_another_experiment_are_forgotten(tmp_path) -> None:
    cells = cells_of(tmp_path, keep_models="none")
    for cell in cells[:3]:
        cell.finish(diverged="so it is")
    forget_others(Storage(str(tmp_path)), cells)
    assert [cell.name for cell in cells if cell.record()] == [cell.name for cell in cells[:3]]
    others = cells_of(tmp_path, evaluations=7, keep_models="none")
    assert not any(cell.record() for cell in others)
    forget_others(Storage(str(tmp_path)), others)
    assert not list((tmp_path / "experiment/cells").iterdir())


def test_a_model_that_is_wanted_later_is_trained_again(tmp_path) -> None:
    bare, kept = (cells_of(tmp_path, keep_models=which)[0] for which in ("none", "all"))
    train(bare.job, World(), "cpu", lambda figures: None)
    bare.finish()
    assert bare.digest == kept.digest and bare.record() and not kept.record()
    bare.job.storage.delete(bare.job.result)  # as the engine does with another configuration
    train(kept.job, World(), "cpu", lambda figures: None)
    kept.finish()
    assert bare.record() == kept.record() and (tmp_path / "models" / kept.name).is_dir()


def test_what_does_not_fit_is_refused(tmp_path) -> None:
    stage(tmp_path).check()
    for config, words in (
        ({"text": {"max_tokens": 64}}, r"model\.n_positions is 32, and texts have up to 64"),
        ({"batches": {"batch_tokens": 16}}, r"batches\.batch_tokens is 16, and one text"),
        ({"settings": {"fewer": {}}}, r"settings\.fewer: there is no such subset"),
        ({"settings": {"few-random": {}}}, "a control has its subset's"),
        ({"split": Split.Config(test=0)}, r"stages\.split\.test is 0"),
    ):
        with pytest.raises(UserError, match=words):
            stage(tmp_path, **config).check()
    with pytest.raises(ValueError, match="twice"):
        TrainSubsetsConfig(seeds=[1, 1])
    empty = {"subsets": {"few": {"rows": 8}, "none": {"rows": 9}}, "controls": False}
    with pytest.raises(UserError, match="subset 'none' has no rows"):
        stage(tmp_path, select=empty).make(tiny_rows(tmp_path), place(tmp_path))


def test_the_cost_is_told(tmp_path) -> None:
    cost = TrainingCost(3, 498_545_920, 280_000_000, 0.4 * 989e12)
    assert cost.flops == pytest.approx(8.376e17, rel=1e-3)
    assert cost.gpu_hours == pytest.approx(0.588, rel=1e-2)
    assert "0.588 GPU-hours at 4e+14 FLOP/s" in str(cost)
    trainer = stage(tmp_path, flops_per_second=1e9)
    sample = pa.table(
        {
            "split": ["train"] * 9 + ["test"],
            "input_ids": [[1] * 10] * 10,
            "quality": [i / 10 for i in range(10)],
        }
    )
    # few: 8 rows of 10 tokens in 2 epochs, and many 24; with controls, two seeds, and 160 tokens.
    told = trainer.estimate(sample, 4)
    assert told.startswith("16 trainings") and "3,840 tokens)" in told
    unknown = dict.fromkeys(("rows", "share", "quantile", "min_score"))
    config = SimpleNamespace(
        subsets={
            "share": SimpleNamespace(**unknown | {"share": 0.5}),
            "quantile": SimpleNamespace(**unknown | {"quantile": 0.75}),
            "score": SimpleNamespace(**unknown | {"min_score": 0.5}),
        }
    )
    assert subset_rows(config, sample, 4) == {"share": 18, "quantile": 9, "score": 16}


def kill_a_cell() -> None:
    """End the first process that trains a cell on this test's own cluster."""
    mine = psutil.Process()
    while True:
        for process in mine.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                if process.cmdline()[0].startswith("ray::CellTrial"):
                    process.kill()
                    return
        time.sleep(0.01)


def test_the_grid_makes_what_its_jobs_make_one_by_one(ray_cluster, one_by_one, tmp_path) -> None:
    """Although a process is lost in between; and what is finished is not trained again."""
    cells = cells_of(tmp_path, loop={"checkpoint_every": 1})
    told: list[str] = []

    def kill() -> None:
        while not list((tmp_path / "work").glob("*/checkpoints/step-*")):
            time.sleep(0.001)
        kill_a_cell()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    grid.run_grid(cells, TrialWorkers(stage="train-subsets"), told.append)
    killer.join(1)
    assert not killer.is_alive()
    assert table(cells) == one_by_one
    assert "16 cells; 2 at the same time, each with 1 CPU" in told[0]
    assert any("was lost and resumes" in line or "restarting" in line for line in told), told
    models = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert models == sorted({r["trained_as"] for r in one_by_one.values() if r["seed"] == 1})
    assert not list((tmp_path / "work").glob("*/checkpoints/*"))
    grid.run_grid(cells, TrialWorkers(), told.append)
    assert (
        len([line for line in told if "at the same time" in line])
        == len([line for line in told if "restarting" in line]) + 1
    )


def test_a_cell_that_fits_no_node_is_refused(ray_cluster, tmp_path) -> None:
    with pytest.raises(UserError, match=r"needs 8 CPUs and 0 GPUs on one node.* has 2 CPUs"):
        grid.run_grid(cells_of(tmp_path), TrialWorkers(Resources(cpus=8)), print)


def test_what_no_cell_could_work_with_ends_the_experiment(ray_cluster, tmp_path) -> None:
    (cell, *_) = cells_of(tmp_path)
    (tmp_path / "two.parquet").unlink()
    with pytest.raises(RunError, match=r"two\.parquet is missing: run again"):
        grid.run_grid([cell], TrialWorkers(), print)


def test_cells_with_several_workers_go_one_after_another(one_by_one, tmp_path, monkeypatch) -> None:
    """By Ray Train, whose place one process takes here."""
    asked = []

    def run_training(job: Any, workers: WorkersConfig, say: Any) -> None:
        asked.append(workers.number)
        train(job, World(), "cpu", lambda figures: None)

    monkeypatch.setattr(grid, "run_training", run_training)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    cells = cells_of(tmp_path, seeds=[1], modes=["epochs"])
    told: list[str] = []
    grid.run_in_turn(cells, WorkersConfig(number=2), told.append)
    assert asked == [2] * 4
    for name, record in table(cells).items():
        assert record["test_loss"] == pytest.approx(one_by_one[name]["test_loss"], rel=1e-5)
    grid.run_in_turn(cells, WorkersConfig(number=2), told.append)
    assert len(asked) == 4


def test_a_whole_experiment_that_is_killed_ends_with_the_same_table(
    ray_cluster, one_by_one, tmp_path
) -> None:
    """kill -9 of the run's own process, whose cells' processes end with it."""
    records = tmp_path / "experiment/cells"
    environment = os.environ | {"RAY_ADDRESS": ray_cluster}

    def start() -> Started:
        return Started("support.run_experiment", [str(tmp_path)], TESTS, environment)

    process = start()
    while process.poll() is None and len(list(records.glob("*.json"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, out + err
    before = {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert 3 <= len(before) < 16
    process = start()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert "16 cells, " in out and "of them finished before" in out
    trainer, rows = stage(tmp_path), tiny_rows(tmp_path)
    cells = trainer.cells(take_census(rows, trainer.names), rows, place(tmp_path))
    assert table(cells) == one_by_one
    after = {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert {name: after[name] for name in before} == before  # not trained again
