"""A tiny model that learns labels, measured on every pair that is held out."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.stored_parts import put_part
from support.tiny_models import CHAT, tiny_model, word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import FAILED, fail, with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Stage, Workplace
from ray_pipeline.stages.reasoning.evaluate_pairs import PREDICTIONS, EvaluatePairs
from ray_pipeline.stages.reasoning.fine_tuning_set import FineTuningSet
from ray_pipeline.stages.reasoning.pair_text import PairText
from ray_pipeline.stages.reasoning.split_pairs import PairsInTwoSplits
from ray_pipeline.stages.reasoning.think import Think
from ray_pipeline.stages.reasoning.tune_pairs import TunePairs
from ray_pipeline.stages.reasoning.validate_pairs import ValidatePairs
from ray_pipeline.train.student import save

LABELS = ("what", "is", "the")
#: Words that the tiny tokenizer knows. The hypothesis alone tells the label.
SAYS = {"what": "a", "is": "b", "the": "c"}
FORMAT = {"question": "{premise} . {hypothesis} ?", "answer": "{label}", "label_words": {}}


def pairs(number: int) -> pa.Table:
    rng = random.Random(5)
    rows = []
    for at in range(number):
        label = LABELS[at % 3]
        split = "test" if at % 5 == 0 else "validation" if at % 5 == 1 else "train"
        rows.append(
            {
                "premise": " ".join(rng.choices("def", k=3)),
                "hypothesis": SAYS[label],
                "label": label,
                "split": split,
                "reasoning": "e f",
                "origin": "thoughts",
                "think_state": "asked",
                "predicted_label": label if at % 2 else None,
                "vote_share": 1.0,
                "split_group": f"g{at // 2}",
                "question": f"q{at}",
                "answer": f"e f {label}",
            }
        )
    return with_envelope(pa.Table.from_pylist(rows), [f"r{at}" for at in range(number)])


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., Any]:
    """Binds a stage to a run in a folder, with pairs of which some failed after the split."""
    tokenizer = word_tokenizer(chat=True)
    assert tokenizer.chat_template == CHAT
    model = save(tiny_model(vocabulary=len(tokenizer)).float(), tokenizer, tmp_path / "base")
    run, all_of_them = tmp_path / "run", pairs(120)
    late = fail(all_of_them, pa.array([at % 10 == 0 for at in range(120)]), "reflection:rejected")
    put_part(run / "stages/02-pairs-in-two-splits/rows/part-u.parquet", all_of_them)
    put_part(run / "stages/03-think/rows/part-u.parquet", all_of_them)
    put_part(run / "stages/04-reasoning-text/rows/part-u.parquet", late)

    def bound(stage: Any, *others: Any, **config: Any) -> tuple[Any, StoredRows, Workplace]:
        jobs: list[Stage] = [ValidatePairs().bound({"labels": LABELS}), PairsInTwoSplits().bound()]
        jobs += [Think().bound(), PairText("reasoning").bound(), *others]
        names = {"base": str(model)}
        settings = Settings(seed=7, models=names, revisions=names, stages=jobs)
        storage = Storage(str(run))
        rows = StoredRows(storage, ("stages/04-reasoning-text/rows/part-u.parquet",), "d")
        place = Workplace(storage, f"stages/{stage.name}/work", lambda line: None)
        return stage.bound(config, settings), rows, place

    return bound


TRAINING = {
    "model": "base",
    "format": FORMAT,
    "system": None,
    "loop": {"epochs": 6, "learning_rate": 0.02, "schedule": "constant", "weight_decay": 0},
    "batches": {"step_rows": 8, "batch_tokens": 512},
}


def test_labels_are_learnt_and_every_held_out_pair_counts(
    world: Callable[..., Any], tmp_path: Path
) -> None:
    tune, rows, place = world(TunePairs("labels"), **TRAINING)
    tune.check()
    figures = tune.make(rows, place)
    assert figures["rows"] == 72  # all training pairs, those that failed later among them
    assert figures["label_tokens"] == dict.fromkeys(LABELS, 1)
    assert figures["label_share_of_loss"] == pytest.approx(0.5)  # the other half is the end

    stage, rows, place = world(EvaluatePairs(), tune)
    found = stage.make(rows, place)
    test = found["splits"]["test"]
    assert (test["rows"], found["train_pairs"]) == (24, 72)
    models = test["models"]
    assert models["tuned-labels"]["accuracy"]["value"] > 0.9
    assert models["base"]["accuracy"]["value"] < 0.7
    assert models["hypothesis-only"]["accuracy"]["value"] == 1.0
    assert models["tuned-labels"]["accuracy"]["low"] <= 1
    compared = {(each["model"], each["than"]): each for each in test["comparisons"]}
    assert ("tuned-labels", "base") in compared and ("base", "majority") in compared
    thoughts = test["thoughts"]
    assert thoughts["rows"] == 24
    # Half of the answers could not be read: they are wrong, and they count.
    assert thoughts["models"]["thoughts"]["unparsable"] == pytest.approx(0.5)
    assert thoughts["models"]["thoughts"]["accuracy"]["value"] == pytest.approx(0.5)
    with (tmp_path / "run" / PREDICTIONS).open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 48 and {line["split"] for line in lines} == {"dev", "test"}

    # A later attempt asks no model again: the stored answers are used.
    (tmp_path / "run/models/tuned-labels/config.json").unlink()
    assert stage.make(rows, place) == found


def test_the_controls_learn_from_what_they_say(world: Callable[..., Any]) -> None:
    learnt: dict[str, list[tuple[str, str]]] = {}
    form = {**FORMAT, "answer": "{reasoning} . {label}"}
    for name, kind, config in (
        ("all", "labels", {}),
        ("same", "labels", {"only_with_reasoning": True}),
        ("few", "labels", {"rows": 10}),
        ("reasoning", "reasoning", {"format": form}),
        ("shuffled", "reasoning", {"format": form, "shuffle_reasoning": True}),
    ):
        stage, rows, _ = world(TunePairs(kind), **{**TRAINING, **config})
        stage.check()
        table = stage._pairs(rows)
        learnt[name] = [
            (row["row_id"], row["split"]) for row in table.to_pylist() if row["split"] == "train"
        ]
    assert len(learnt["all"]) == 72
    assert learnt["same"] == learnt["reasoning"] == learnt["shuffled"]
    assert set(learnt["few"]) < set(learnt["all"]) and len(learnt["few"]) == 10


def test_a_format_that_does_not_fit_what_is_learnt_is_refused(world: Callable[..., Any]) -> None:
    stage, _, _ = world(TunePairs("reasoning"), **TRAINING)
    with pytest.raises(UserError, match="must be in it"):
        stage.check()
    stage, _, _ = world(TunePairs("labels"), model="base")
    with pytest.raises(UserError, match="give each of what, is, the a word"):
        stage.check()


def test_the_fine_tuning_set_is_balanced_where_asked(
    world: Callable[..., Any], tmp_path: Path
) -> None:
    stage, rows, place = world(FineTuningSet(), balance=True, sample_rows=3)
    found = stage.make(rows, place)
    train = found["splits"]["train"]
    assert len(set(train["by_label"].values())) == 1
    whole = world(FineTuningSet())[0].make(rows, place)["splits"]["train"]
    assert train["rows"] + found["left_out_to_balance"] == whole["rows"]
    kept = [row for row in rows.tables(["row_id", "split", "status"])]
    assert all(FAILED not in table["status"].to_pylist() for table in kept)
    assert whole["rows"] == sum(table["split"].to_pylist().count("train") for table in kept)
    folder = tmp_path / "run" / "exports"
    assert len((folder / "train_ft.jsonl").read_text().splitlines()) == whole["rows"]
