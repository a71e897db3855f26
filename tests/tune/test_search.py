"""Search: proposals and pruning that survive a kill, trials that share a process, whole runs."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import psutil
import pytest
import torch
import yaml
from ray import tune
from support.command import TESTS, Command
from support.tiny_study import model_folder, qa_rows, tiny_job

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.storage import Storage
from ray_pipeline.stage import Settings, Stage
from ray_pipeline.stages.training.distil import Distil, TrainAlone
from ray_pipeline.stages.training.search import Search, SearchAlone
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs
from ray_pipeline.train.loop import LoopConfig
from ray_pipeline.train.losses import Objective
from ray_pipeline.tune import runner as runner_module
from ray_pipeline.tune import search as search_module
from ray_pipeline.tune.proposals import Proposals, Pruning
from ray_pipeline.tune.runner import Interrupted, TrialWorkers
from ray_pipeline.tune.search import SearchWatch, Study, Trial, search
from ray_pipeline.tune.trials import (
    LOSS,
    WORST,
    Parameters,
    PruningConfig,
    Range,
    Space,
    TrialRecord,
    Trials,
    best,
    get_best,
    put_best,
)

SEEDS = Parameters(alpha=0.4664, beta=0.2081, temperature=0.7, learning_rate=6.795e-5)


def record(number: int, *losses: float, status: Any = "finished", **changed: float) -> TrialRecord:
    steps = tuple((10 * i, loss) for i, loss in enumerate(losses, start=1))
    return TrialRecord(number, status, SEEDS.model_copy(update=changed), steps, 1.0)


def valley(parameters: Parameters) -> float:
    return (parameters.alpha - 0.3) ** 2 + (parameters.temperature - 2) ** 2


def propose(
    records: list[TrialRecord], number: int, at_once: int = 1, seed: int = 7
) -> list[TrialRecord]:
    """What a search goes on to try: ``at_once`` are proposed before one of them ends, the last."""
    proposals = Proposals(SEEDS, Space(), seed, records)
    records, running = list(records), []
    while len(records) < number:
        while len(running) < at_once:
            config = dict(proposals.suggest(name := f"{len(records)}-{len(running)}-{time.time()}"))
            running.append((name, config.pop("number"), Parameters(**config)))
        name, made, parameters = running.pop()
        loss = valley(parameters)
        proposals.on_trial_complete(name, {LOSS: loss})
        records.append(TrialRecord(made, "finished", parameters, ((1, loss),), 0.1))
    return records


def test_a_search_that_goes_on_tries_what_it_would_have_tried() -> None:
    whole = propose([], 16)
    assert whole[0].parameters == SEEDS and [one.number for one in whole] == list(range(16))
    for cut in (1, 4, 13):
        assert propose(whole[:cut], 16) == whole
    assert propose([], 16, seed=8)[1:] != whole[1:]
    random, told = (sum(valley(r.parameters) for r in part) for part in (whole[1:6], whole[11:]))
    assert told < random  # TPE has learnt where to look


def test_what_finished_is_not_proposed_again_where_others_were_lost() -> None:
    before = propose([], 3, at_once=3)
    assert [one.number for one in before] == [2, 3, 4]  # 0 and 1 were running
    after = propose(before, 8, at_once=3)
    assert len({one.number for one in after}) == len({one.parameters for one in after}) == 8
    ended = propose(before, 4)
    assert (ended[3].number, ended[3].parameters) == (0, SEEDS)


def test_pruning_counts_the_trials_of_an_earlier_attempt() -> None:
    finished = [record(number, 2.0 + number, 1.0 + number) for number in (0, 1, 2)]
    finished.append(record(3, status="diverged"))
    pruning = Pruning(PruningConfig(grace=1, reduction=2), finished)

    def decision(number: int, *losses: float) -> str:
        trial: Any = SimpleNamespace(trial_id=f"new-{number}", config={"number": number})
        pruning.on_trial_add(None, trial)
        decisions = [
            pruning.on_trial_result(None, trial, {"training_iteration": i, LOSS: loss})
            for i, loss in enumerate(losses, start=1)
        ]
        return decisions[-1]

    assert decision(4, 1.9, 0.9) == "CONTINUE"
    assert decision(5, 9.0) == "STOP"
    assert decision(6, 1.8, 9.0) == "STOP"
    assert decision(0, 9.0, 9.0) == "CONTINUE"


def test_trials_are_kept_for_their_study_alone(tmp_path) -> None:
    storage = Storage(str(tmp_path))
    trials = Trials(storage, "search/trials.jsonl", "one")
    kept = [
        record(0, 3.0, 2.5),
        record(2, 4.0, status="pruned", beta=0.5),
        record(1, 1.0, status="diverged", learning_rate=1.0),
        record(3, 2.6, 2.5, alpha=0.9),
    ]
    assert best([]) is None and best([kept[2]]) is None
    for one in kept:
        trials.add(one)
    assert Trials(storage, "search/trials.jsonl", "one").records == kept
    assert best(kept) is kept[0] and kept[2].loss is None
    assert kept[2].scores == [1.0, WORST] and record(0, 2.0, 3.0).scores == [2.0, 2.0]
    lines = (tmp_path / "search/trials.jsonl").read_bytes().splitlines()
    assert orjson.loads(lines[1])["losses"] == [[10, 4.0]]
    assert Trials(storage, "search/trials.jsonl", "another").records == []


def test_trials_are_kept_on_object_storage(s3) -> None:
    storage = Storage("s3://bucket/run")
    for number in (0, 1):
        Trials(storage, "search/trials.jsonl", "one").add(record(number, 3.0))
    assert Trials(storage, "search/trials.jsonl", "one").records == [record(0, 3.0), record(1, 3.0)]


def test_a_study_is_told_apart_by_all_that_its_trials_depend_on(tmp_path) -> None:
    job = tiny_job(tmp_path)
    mine = Study(job, Space(), SEEDS, 7, PruningConfig(), {"k": 1})
    others = [
        Study(job, Space(beta=Range(low=0, high=1)), SEEDS, 7, PruningConfig(), {"k": 1}),
        Study(job, Space(), SEEDS.model_copy(update={"alpha": 0.5}), 7, PruningConfig(), {"k": 1}),
        Study(job, Space(), SEEDS, 8, PruningConfig(), {"k": 1}),
        Study(job, Space(), SEEDS, 7, None, {"k": 1}),
        Study(job, Space(), SEEDS, 7, PruningConfig(), {"k": 2}),
    ]
    assert len({mine.digest, *(one.digest for one in others)}) == 6
    assert mine.digest == Study(job, Space(), SEEDS, 7, PruningConfig(), {"k": 1}).digest


def test_ranges() -> None:
    assert Space().outside(SEEDS) == []
    assert Space(alpha=Range(low=0.5, high=1)).outside(SEEDS) == ["alpha"]
    with pytest.raises(ValueError, match=r"low \(2\) is above high \(1\)"):
        Range(low=2, high=1)
    with pytest.raises(ValueError, match="temperature: low must be above 0"):
        Space(temperature=Range(low=0, high=1))


def stage(trials: int = 1, validation: float = 0.1, **changed: Any) -> Search:
    stages = [
        Split().bound({"validation": validation}),
        TeacherLogProbs().bound(),
        Search().bound({"trials": trials}),
        Distil().bound(changed),
    ]
    return Search().bound({"trials": trials}, Settings(stages=stages))


def test_what_cannot_be_searched_is_refused() -> None:
    stage().check()
    with pytest.raises(UserError, match=r"distil\.alpha is 2, outside of space\.alpha, 0\.1 to 1"):
        stage(alpha=2).check()
    with pytest.raises(UserError, match=r"distil\.loop\.learning_rate is 1, outside"):
        stage(loop={"learning_rate": 1}).check()
    with pytest.raises(UserError, match=r"stages\.split\.validation is 0"):
        stage(validation=0).check()
    off = stage(trials=0, alpha=2, validation=0)
    off.check()
    assert off.makes == () and off.resources() is None


def test_its_identity_has_that_of_the_distillation_where_it_searches() -> None:
    assert stage().identity() != stage(beta=0.5).identity()
    assert stage(0).identity() == stage(0, beta=0.5).identity()


def test_a_student_that_a_later_stage_names_is_looked_up(tmp_path) -> None:
    named = {"model": str(model_folder(tmp_path / "model"))}
    (revision,) = stage(student=named).identity()["distil"]["models"]
    assert revision.startswith("sha256:")
    with pytest.raises(UserError, match=r"stages\.distil\.student\.model: .*nobodys-model"):
        stage(student={"model": "nobodys-model"}).identity()


def test_distillation_takes_what_the_search_found(tmp_path) -> None:
    run = Storage(str(tmp_path))

    def parameters(*others: Stage) -> Parameters:
        return Distil().bound(settings=Settings(stages=others)).chosen_parameters(run)

    searched = Search().bound({"trials": 1})
    assert parameters() == SEEDS
    assert parameters(Search().bound()) == SEEDS
    with pytest.raises(RunError, match="left no parameters"):
        parameters(searched)
    found = SEEDS.model_copy(update={"alpha": 0.9, "learning_rate": 1e-3})
    put_best(run, found)
    assert parameters(searched) == found
    assert found.objective == Objective(0.9, 0.2081, 0.7)
    assert found.loop(LoopConfig(epochs=9)) == LoopConfig(epochs=9, learning_rate=1e-3)


def alone(**changed: Any) -> SearchAlone:
    stages = [
        Search().bound({"trials": 4, "loop": {"max_steps": 9}}),
        Distil().bound({"seeds": 3}),
        SearchAlone().bound(),
        TrainAlone().bound(changed),
    ]
    return SearchAlone().bound({}, Settings(stages=stages))


def test_the_control_gets_the_trials_of_the_distillation() -> None:
    control = alone()
    control.check()
    assert control.effort is control.effort and control.effort.trials == 4
    assert control.space.searched == ["learning_rate"]
    assert control.first == Parameters(
        alpha=1, beta=0, temperature=1, learning_rate=LoopConfig().learning_rate
    )
    assert alone(learning_rate=3e-4).first.learning_rate == 3e-4
    assert alone(learning_rate=3e-4).identity() != control.identity()
    with pytest.raises(UserError, match=r"stages\.train-alone\.learning_rate is 1, outside"):
        alone(learning_rate=1).check()
    off = SearchAlone().bound({}, Settings(stages=[Search().bound(), TrainAlone().bound()]))
    off.check()
    assert (
        off.makes == () and off.resources() is None and off.identity() == {"config": {"trials": 0}}
    )


def test_the_control_takes_what_its_own_search_found(tmp_path) -> None:
    run, control = Storage(str(tmp_path)), alone()
    put_best(run, SEEDS.model_copy(update={"learning_rate": 1e-3}))
    trained = TrainAlone().bound({}, control.settings)
    with pytest.raises(RunError, match="left no parameters"):
        trained.chosen_parameters(run)
    put_best(
        run, control.first.model_copy(update={"learning_rate": 7e-4}), "search-alone/best.json"
    )
    assert trained.chosen_parameters(run).learning_rate == 7e-4
    # Without a search of its own it takes what is configured, not what suits the distillation.
    others = [one for one in control.settings.stages if one.name != "search-alone"]
    lone = TrainAlone().bound({}, Settings(stages=others))
    assert lone.chosen_parameters(run) == control.first


def test_more_seeds_repeat_no_trial() -> None:
    assert stage(seeds=3).identity() == stage().identity()


def test_the_old_name_of_the_stall_timeout_is_read() -> None:
    assert (
        Search.Config(silence=7).stall_timeout == Search.Config(stall_timeout=7).stall_timeout == 7
    )
    assert Search.Config(silence=7).identity() == Search.Config().identity()


def test_as_many_trials_as_nodes_hold() -> None:
    two = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 3.0}]
    assert TrialWorkers(Resources(cpus=1)).fit_on(two) == 5
    assert TrialWorkers(Resources(cpus=2)).fit_on(two) == 2
    assert TrialWorkers(Resources(cpus=0.5, gpus=0.25)).fit_on(two) == 4
    assert TrialWorkers(Resources(cpus=8), at_most=3).fit_on(two) == 3  # of a cluster that grows
    with pytest.raises(UserError, match=r"needs 4 CPUs and 1 GPUs.* has 3 CPUs and 1 GPUs"):
        TrialWorkers(Resources(cpus=4, gpus=1)).fit_on(two)


def steps_of(trial: Trial) -> list[dict[str, Any]]:
    results = [trial.step()]
    while not results[-1]["done"]:
        results.append(trial.step())
    return results


def make_trial(job: Any, parameters: Parameters) -> Trial:
    trial = object.__new__(Trial)  # without Ray Tune's own set-up
    trial.setup({**parameters.model_dump(), "number": 0}, job, "cpu", torch.get_num_threads())
    return trial


def test_trials_of_one_process_do_not_see_each_other(tmp_path) -> None:
    job = tiny_job(tmp_path, learning_rate=1.0)
    good = SEEDS.model_copy(update={"learning_rate": 1e-2})
    fresh = steps_of(make_trial(job, good))
    assert [one["step"] for one in fresh] == [2, 4] and fresh[-1]["ended"]
    assert fresh[-1][LOSS] == min(one["loss"] for one in fresh)

    trial = make_trial(job, SEEDS.model_copy(update={"learning_rate": 1e30}))
    (diverged,) = steps_of(trial)
    assert diverged["diverged"] and diverged[LOSS] == WORST
    bench = trial._bench
    trial.reset_config({**good.model_dump(), "number": 1})
    trial.step()  # and pruned
    trial.reset_config({**good.model_dump(), "number": 2})
    again = steps_of(trial)
    assert [one["loss"] for one in again] == [one["loss"] for one in fresh]
    assert trial._bench is bench


def test_what_no_parameters_could_help_ends_the_search(tmp_path) -> None:
    (result,) = steps_of(make_trial(tiny_job(tmp_path, validation=0), SEEDS))
    kind, message = result["refused"]
    assert kind == "UserError" and "stages.split.validation" in message
    watching = SearchWatch(Trials(Storage(str(tmp_path)), "t", "s"), 3, TrialWorkers(), print)
    trial: Any = SimpleNamespace(trial_id="1", config={}, last_result=result, status="RUNNING")
    watching.on_trial_result(1, [trial], trial, result)
    watching.on_trial_complete(1, [trial], trial)
    with pytest.raises(UserError, match="no validation rows"):
        watching.on_step_end(1, [trial])


def test_a_stall_ends_the_search(ray_cluster, tmp_path, monkeypatch) -> None:
    trials = Trials(Storage(str(tmp_path)), "t", "s")
    running, waiting = (SimpleNamespace(status=status) for status in ("RUNNING", "PENDING"))
    watching = SearchWatch(trials, 3, TrialWorkers(stall_timeout=0), print)
    with pytest.raises(RunError, match=r"longer than stages\.search\.stall_timeout"):
        watching.on_step_end(1, [running, waiting])
    small, large = (
        SearchWatch(trials, 3, TrialWorkers(Resources(cpus=cpus)), print) for cpus in (1, 8)
    )
    for watching in (small, large):
        watching.on_step_end(1, [waiting])
    monkeypatch.setattr(runner_module, "_STALL_SECONDS", 0)
    large.on_step_end(1, [waiting])  # another's work may end, or the cluster grow
    with pytest.raises(Interrupted, match="there was room"):
        small.on_step_end(1, [waiting])
    monkeypatch.setattr(runner_module, "_START_SECONDS", 0)
    with pytest.raises(RunError, match=r"One needs 8 CPUs and 0 GPUs; of 2 CPUs"):
        large.on_step_end(1, [waiting])


def test_where_ray_tune_fails_it_begins_again_with_what_is_left(tmp_path, monkeypatch) -> None:
    trials, told, attempts = Trials(Storage(str(tmp_path)), "t", "s"), [], []

    def attempt(finish: bool) -> Any:
        def failing(*arguments: Any) -> None:
            attempts.append(len(trials.records))
            if finish:
                trials.add(record(len(trials.records), 2.0))
            raise [tune.TuneError("told\nlast line"), Interrupted("no trial")][len(attempts) % 2]

        return failing

    some = Study(tiny_job(tmp_path), Space(), SEEDS)
    monkeypatch.setattr(search_module, "_attempt", attempt(finish=True))
    assert len(search(some, 5, trials, TrialWorkers(), told.append)) == 5
    assert attempts == [0, 1, 2, 3, 4] and told[1].endswith(
        "restarting Ray Tune: TuneError: told last line"
    )
    monkeypatch.setattr(search_module, "_attempt", attempt(finish=False))
    with pytest.raises(RunError, match=r"the search failed: (TuneError: told last line|no trial)"):
        search(some, 6, trials, TrialWorkers(), told.append)
    assert attempts[5:] == [5, 5, 5]


def test_nothing_is_left_to_run_without_a_cluster(tmp_path) -> None:
    trials = Trials(Storage(str(tmp_path)), "t", "s")
    for number in (1, 0, 2):
        trials.add(record(number, 2.0))
    found = search(Study(tiny_job(tmp_path), Space(), SEEDS), 2, trials, TrialWorkers(), print)
    assert [one.number for one in found] == [1, 0]


def kill_a_trial() -> None:
    """End the first process of a trial on this test's own cluster."""
    mine = psutil.Process()
    while True:
        for process in mine.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                # The name of its actor, and that of what is called where it is busy.
                if process.cmdline()[0].startswith(("ray::Trial", "ray::ResourceTrainable")):
                    process.kill()
                    return
        time.sleep(0.01)


def test_lost_processes_cost_no_trial(ray_cluster, tmp_path) -> None:
    """One is lost in the middle of a trial, one between two."""
    job = tiny_job(tmp_path)
    trials = Trials(job.storage, "search/trials.jsonl", "s")
    told: list[str] = []

    def kill() -> None:
        kill_a_trial()
        while not trials.records:
            time.sleep(0.001)
        kill_a_trial()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = search(Study(job, Space(), SEEDS), 3, trials, TrialWorkers(at_most=1), told.append)
    assert not killer.is_alive()
    assert sum("was lost and restarts" in line for line in told) >= 2, told
    assert {one.status for one in found} == {"finished"} and len(found) == 3
    assert found == Trials(job.storage, "search/trials.jsonl", "s").records
    assert [step for step, _ in found[0].losses] == [2, 4]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run of tests/support/jobs/searching.py with eight trials."""
    model = str(model_folder(tmp_path / "model"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in qa_rows(72)))
    loop = {"epochs": 100, "max_steps": 10, "schedule": "constant", "warmup": 0}
    stages = {
        "split": {"validation": 0.2, "test": 0.0},
        "tokenise": {"model": model},
        "train-teacher": {"model": model, "method": "none"},
        "teacher-log-probs": {"k": 8},
        "search": {
            "trials": 8,
            "space": {"learning_rate": {"low": 1e-6, "high": 1e-1}},
            "loop": {"max_steps": 120, "evaluate_every": 20},
        },
        "distil": {
            "student": {"layers": [0]},
            "loop": loop,
            "batches": {"step_rows": 16, "batch_tokens": 512},
        },
    }
    path = tmp_path / "config.yaml"
    settings = {
        "name": "searching",
        "job": str(TESTS / "support/jobs/searching.py"),
        "run_dir": str(tmp_path / "run"),
        "seed": 7,
        "unit_rows": 36,
        "source": {"path": str(rows)},
        "stages": stages,
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_run_searches_is_killed_goes_on_and_distils_with_the_best(
    command: Command, config: Path
) -> None:
    run = config.parent / "run"
    record_file = run / "search/trials.jsonl"
    process = command.start("run", config)
    while process.poll() is None:
        if record_file.exists() and record_file.read_bytes().count(b"\n") >= 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, out + err
    before = record_file.read_bytes().splitlines()
    assert 2 <= len(before) < 8

    done = command("run", config)
    assert done.code == 0, done.text
    assert f"8 trials, {len(before)} of them finished before" in done.out
    lines = record_file.read_bytes().splitlines()
    assert lines[: len(before)] == before  # not run again
    trials = [orjson.loads(line) for line in lines]
    assert len(trials) == len({one["number"] for one in trials}) == 8
    first = next(one for one in trials if one["number"] == 0)
    assert first["status"] == "finished" and first["parameters"] == SEEDS.model_dump()
    assert any(one["status"] == "pruned" for one in trials)
    lowest = min(one["loss"] for one in trials if one["loss"] is not None)
    assert lowest <= first["loss"]

    figures = json.loads((run / "metrics.json").read_text())["search"]
    assert (figures["best_loss"], figures["configured_loss"]) == (lowest, first["loss"])
    assert figures["trials"] == Counter(one["status"] for one in trials)
    assert [one["trial"] for one in figures["history"]] == [one["number"] for one in trials]
    assert figures["history"][-1]["lowest"] == lowest
    table = (run / "search/trials.csv").read_text().splitlines()
    assert len(table) == 9 and table[1].startswith(f"{figures['best_trial']},")

    found = get_best(Storage(str(run)))
    assert found.model_dump() == figures["best_parameters"]
    curve = (run / "stages/06-distil/work/curve.jsonl").read_text().splitlines()
    assert json.loads(curve[0])["learning_rate"] == found.learning_rate

    check_control(run, found)

    again = yaml.safe_load((run / "search/best.yaml").read_text())
    assert again["stages"]["search"]["trials"] == 0
    assert again["stages"]["distil"]["alpha"] == found.alpha
    assert again["stages"]["distil"]["loop"]["learning_rate"] == found.learning_rate
    planned = command("plan", run / "search/best.yaml")
    assert planned.code == 0, planned.text
    actions = dict(line.split()[:2] for line in planned.out.splitlines()[1:8])
    assert actions["teacher-log-probs"] == "reused" and actions["distil"] == "run"


def check_control(run: Path, distilled: Parameters) -> None:
    """The student alone was tuned with as many trials, and is trained with what they found."""
    lines = (run / "search-alone/trials.jsonl").read_bytes().splitlines()
    trials = [orjson.loads(line) for line in lines]
    assert len(trials) == len({one["number"] for one in trials}) == 8
    rates = {one["parameters"].pop("learning_rate") for one in trials}
    assert len(rates) == 8 and min(rates) >= 1e-6 and max(rates) <= 1e-1
    assert all(one["parameters"] == {"alpha": 1, "beta": 0, "temperature": 1} for one in trials)
    found = get_best(Storage(str(run)), "search-alone/best.json")
    curve = (run / "stages/08-train-alone/work/curve.jsonl").read_text().splitlines()
    assert json.loads(curve[0])["learning_rate"] == found.learning_rate
    assert "learning_rate" in (run / "search-alone/trials.csv").read_text().splitlines()[0]
    figures = json.loads((run / "metrics.json").read_text())["search-alone"]
    assert figures["best_parameters"] == {"learning_rate": found.learning_rate}
    assert min(one["loss"] for one in trials if one["loss"] is not None) == figures["best_loss"]

    both = yaml.safe_load((run / "search-alone/best.yaml").read_text())["stages"]
    assert both["search"]["trials"] == 0
    assert both["distil"]["loop"]["learning_rate"] == distilled.learning_rate
    assert both["train-alone"]["learning_rate"] == found.learning_rate


def test_a_trial_that_fits_no_node_is_refused(command: Command, config: Path) -> None:
    for refused in command.both(config, "--set", "stages.search.num_cpus=64"):
        assert refused.code == 2
        assert "the run needs 64 CPUs" in refused.err and "(stages.search 64)" in refused.err
