"""Every model is measured on the same rows, once, and the file says what each answered."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from support.stored_parts import put_part
from support.tiny_models import qa_table, tiny_model, word_tokenizer
from transformers import AutoModelForCausalLM

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.generation import TextGenerator
from ray_pipeline.evaluate.model import ModelFigures
from ray_pipeline.evaluate.text import corpus_bleu, exact_match, rouge_l, sentence_bleu
from ray_pipeline.models.decoding import Decoding
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.training.distil import Distil, TrainAlone
from ray_pipeline.stages.training.evaluate import RESULTS, Evaluate
from ray_pipeline.stages.training.measured_rows import chosen
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.store import put_model
from ray_pipeline.train.student import StudentConfig, cut, load

MODELS = ["teacher", "student-before", "student", "student-alone"]
WORDS = ["a", "b", "c", "d", "e", "f", "the", "of", "capital"]
TEST = 12
CONFIG = Evaluate.Config(rows=8, max_new_tokens=6, batch_rows=3, batch_tokens=64)


@dataclass
class Run:
    """A run directory with models and token rows, ready to be evaluated."""

    storage: Storage
    rows: StoredRows
    settings: Settings

    def make(self, config: Evaluate.Config = CONFIG, **more: Any) -> dict[str, Any]:
        self.told: list[str] = []
        stage = Evaluate().bound(config, Settings(**{**self.settings.__dict__, **more}))
        place = Workplace(self.storage, "stages/06-evaluate/work", self.told.append)
        return stage.make(self.rows, place)

    def results(self) -> list[dict[str, str]]:
        with self.storage.local_path(RESULTS).open(newline="") as file:
            return list(csv.DictReader(file))

    def model(self, name: str) -> Any:
        return load(str(self.storage.local_path(f"models/{name}")))


def stored_rows(
    storage: Storage,
    splits: Sequence[str],
    versions: Mapping[int, tuple[str, int]] | None = None,
    groups: Mapping[int, str] | None = None,
) -> StoredRows:
    """Parts of token rows with their splits; answers have white space around them.

    Args:
        storage: for the parts.
        splits: of the rows.
        versions: by position, of rows that are paraphrases: their version and their source.
        groups: by position, of rows that have twins: the name of their group.
    """
    number = len(splits)
    questions = [f"what is {WORDS[i % 9]} {WORDS[i // 9 % 9]} ?" for i in range(number)]
    answers = [f" {WORDS[i * 7 % 9]} {' '.join(WORDS[: i % 4])} " for i in range(number)]
    made = qa_table(questions, answers)
    tokens = Tokeniser(word_tokenizer())(made)
    data = made.drop_columns("row_id").append_column("split", pa.array(splits))
    for name in ("input_ids", "answer_mask"):
        data = data.append_column(name, tokens[name])
    if versions is not None:
        named = [versions.get(i, ("original", 0))[0] for i in range(number)]
        data = data.append_column("version", pa.array(named))
    if groups is not None:
        data = data.append_column(
            "split_group", pa.array([groups.get(i) for i in range(number)], pa.string())
        )
    rows = with_envelope(data, made["row_id"].to_pylist())
    if versions is not None:
        parents = [
            made["row_id"][versions[i][1]].as_py() if i in versions else None for i in range(number)
        ]
        at = rows.column_names.index("parent_id")
        rows = rows.set_column(at, "parent_id", pa.array(parents, pa.string()))
    paths = []
    for first in range(0, number, 10):
        paths.append(f"part-{first:03d}.parquet")
        put_part(storage.local_path(paths[-1]), rows.slice(first, 10))
    return StoredRows(storage, tuple(paths), "digest")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    storage = Storage(str(tmp_path / "run"))
    tokenizer = word_tokenizer()
    for seed, (name, layers) in enumerate({"teacher": 2, "student": 1, "student-alone": 1}.items()):
        put_model(storage, name, tiny_model("gpt2", seed=seed, layers=layers), tokenizer,
                  TextConfig(), torch.float32)  # fmt: skip
    stages = [
        Split().bound(),
        Tokenise("question", "answer").bound({"model": "some"}),
        TrainTeacher().bound({"model": "some"}),
        Distil().bound({"student": StudentConfig(layers=[1])}),
        TrainAlone().bound(),
    ]
    splits = ["test" if i % 3 == 0 else "train" for i in range(3 * TEST)]
    return Run(storage, stored_rows(storage, splits), Settings(seed=5, stages=stages))


def test_the_file_has_each_models_answers_and_their_scores(run: Run) -> None:
    figures = run.make()
    rows = run.results()
    of_each = ["answer", "sentence_bleu", "rouge_l", "exact_match"]
    assert list(rows[0]) == ["row_id", "version", "question", "reference"] + [
        f"{model}_{column}" for model in MODELS for column in of_each
    ]
    assert (figures["rows"], figures["test_rows"], len(rows)) == (8, TEST, 8)
    references = [row["reference"] for row in rows]
    assert references == [reference.strip() for reference in references]
    for model in MODELS:
        answers = [row[f"{model}_answer"] for row in rows]
        for name, metric in (
            ("sentence_bleu", sentence_bleu),
            ("rouge_l", rouge_l),
            ("exact_match", exact_match),
        ):
            scores = [float(row[f"{model}_{name}"]) for row in rows]
            assert scores == pytest.approx(metric(answers, references))
            assert figures["models"][model][name] == pytest.approx(sum(scores) / 8)
        assert figures["models"][model]["bleu"] == corpus_bleu(answers, references).score


def test_answers_are_the_models_own_and_the_untrained_student_is_distils(run: Run) -> None:
    run.make()
    rows = run.results()
    teacher = run.model("teacher")
    models = {name: run.model(name) for name in ("student", "student-alone")}
    models |= {"teacher": teacher, "student-before": cut(teacher, [1])}
    for name, model in models.items():
        generator = TextGenerator(model, word_tokenizer(), TextConfig())
        answers = generator([row["question"] for row in rows], Decoding(6))
        assert [row[f"{name}_answer"] for row in rows] == [answer.text for answer in answers]


def test_perplexity_is_of_the_answer_tokens_of_all_test_rows(run: Run) -> None:
    figures = run.make()["models"]["teacher"]
    model = AutoModelForCausalLM.from_pretrained(run.storage.local_path("models/teacher"))
    nats, counted = 0.0, 0
    for row in run.rows.mapped(["input_ids", "answer_mask"], split="test").to_pylist():
        ids = torch.tensor([row["input_ids"]])
        log_probs = model(ids).logits[0].log_softmax(-1)
        for position, is_answer in enumerate(row["answer_mask"]):
            if is_answer:
                nats -= log_probs[position - 1, row["input_ids"][position]].item()
                counted += 1
    assert figures["answer_tokens"] == counted
    assert figures["perplexity"] == pytest.approx(math.exp(nats / counted), rel=1e-5)

    run.storage.delete_folder("stages")
    low = run.make(CONFIG.model_copy(update={"dtype": "bfloat16"}))["models"]["teacher"]
    assert low["perplexity"] == pytest.approx(figures["perplexity"], rel=0.05)
    assert low["perplexity"] != figures["perplexity"]


def test_students_of_several_seeds_are_compared_seed_by_seed(run: Run) -> None:
    for number, name in enumerate(["student-seed-2", "student-alone-seed-2"], 7):
        put_model(run.storage, name, tiny_model("gpt2", seed=number, layers=1), word_tokenizer(),
                  TextConfig(), torch.float32)  # fmt: skip
    assert "seeds" not in run.make()
    several = Distil().bound({"student": StudentConfig(layers=[1]), "seeds": 2})
    stages = [several if stage.name == "distil" else stage for stage in run.settings.stages]
    figures = run.make(stages=stages)
    seeds = figures["seeds"]
    models = figures["models"]
    first = [models[name]["perplexity"] for name in ("student", "student-alone")]
    assert seeds["perplexities"][0] == pytest.approx(first)
    as_first = [Path(run.storage.local_path(f"models/{name}")) for name in
                ("student-seed-2", "student-alone-seed-2")]  # fmt: skip
    for folder, stand_in in zip(as_first, ("student", "student-alone"), strict=True):
        shutil.rmtree(run.storage.local_path(f"models/{stand_in}"))
        shutil.copytree(folder, run.storage.local_path(f"models/{stand_in}"))
    run.storage.delete_folder("stages")
    models = run.make()["models"]
    second = [models[name]["perplexity"] for name in ("student", "student-alone")]
    assert seeds["perplexities"][1] == pytest.approx(second)
    ratios = [first[0] / first[1], second[0] / second[1]]
    assert seeds["ratios"] == pytest.approx(ratios)
    assert seeds["mean"] == pytest.approx(math.sqrt(ratios[0] * ratios[1]))
    assert seeds["low"] < min(ratios) and max(ratios) < seeds["high"]


def test_sizes_are_counted(run: Run) -> None:
    figures = run.make()["models"]
    for name in ("teacher", "student"):
        model = run.model(name)
        assert figures[name]["parameters"] == sum(p.numel() for p in model.parameters())
        weights = run.storage.local_path(f"models/{name}/model.safetensors")
        assert (figures[name]["bytes"], figures[name]["dtype"]) == (
            weights.stat().st_size,
            "float32",
        )
    assert figures["student-before"]["bytes"] is None
    assert figures["student-before"]["parameters"] == figures["student"]["parameters"]
    for one in figures.values():
        assert one["latency_seconds"] > 0 and one["tokens_per_second"] > 0
        assert 0 < one["tokens_per_answer"] <= 6 and 0 <= one["ended"] <= 1


def test_a_killed_evaluation_goes_on_with_the_model_it_was_at(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run.make()
    answered = run.results()
    run.storage.delete_folder("stages")
    run.storage.delete(RESULTS)
    measured, real = [], Evaluate._measured

    def dies_at_the_student(self: Evaluate, subject: Any, *rest: Any) -> Any:
        if subject.name == "student" and len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(subject.name)
        return real(self, subject, *rest)

    monkeypatch.setattr(Evaluate, "_measured", dies_at_the_student)
    with pytest.raises(KeyboardInterrupt):
        run.make()
    assert not run.storage.exists(RESULTS)
    measured.append("again")
    again = run.make()
    assert measured == ["teacher", "student-before", "again", "student", "student-alone"]
    assert run.results() == answered
    assert [m["bleu"] for m in again["models"].values()] == [
        m["bleu"] for m in whole["models"].values()
    ]


def test_only_models_of_the_runs_stages_are_measured(run: Run) -> None:
    others = ("train-alone", "distil")
    stages = [stage for stage in run.settings.stages if stage.name not in others]
    assert list(run.make(stages=stages)["models"]) == ["teacher"]


def test_rows_are_drawn_by_their_ids_and_the_seed(run: Run) -> None:
    ids = [f"id{i}" for i in range(50)]
    drawn = [ids[i] for i in chosen(ids, 10, seed=1)]
    assert len(drawn) == 10 and drawn == sorted(drawn, key=ids.index)
    assert set(drawn) == {ids[::-1][i] for i in chosen(ids[::-1], 10, seed=1)}
    assert set(drawn) != {ids[i] for i in chosen(ids, 10, seed=2)}
    assert chosen(ids, 99, seed=1) == list(range(50))

    of_test = set(run.rows.mapped(["row_id"], split="test")["row_id"].to_pylist())
    run.make()
    assert {row["row_id"] for row in run.results()} < of_test


def test_what_only_changes_the_speed_is_not_of_its_identity() -> None:
    def identity(seed: int = 0, **fields: Any) -> dict[str, Any]:
        return Evaluate().bound(Evaluate.Config(**fields), Settings(seed=seed)).identity()

    assert identity() == identity(batch_rows=1, batch_tokens=9, gpu=False)
    assert identity() not in (identity(rows=3), identity(max_new_tokens=3), identity(seed=1))


def test_without_test_rows_it_says_what_to_do(run: Run) -> None:
    run.rows = stored_rows(run.storage, ["train"] * 5)
    with pytest.raises(UserError, match=r"no test rows.*raise stages\.split\.test"):
        run.make()
    stages = [Split().bound({"test": 0}), *run.settings.stages[1:]]
    with pytest.raises(UserError, match=r"stages\.split\.test is 0"):
        Evaluate().bound(CONFIG, Settings(stages=stages)).check()
    Evaluate().bound(CONFIG, run.settings).check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_the_run(run: Run) -> None:
    with pytest.raises(UserError, match="gpu is true, and this machine has none"):
        Evaluate().bound(Evaluate.Config(gpu=True), run.settings).check()


# Paraphrases, and questions that are not independent


def versions_of(first: int, number: int) -> dict[int, tuple[str, int]]:
    """Paraphrases of the rows before ``first``: a formal and a casual one of each."""
    kinds = ("formal", "casual")
    return {
        first + 2 * source + place: (kind, source)
        for source in range(number)
        for place, kind in enumerate(kinds)
    }


@pytest.fixture
def reworded(run: Run) -> Run:
    """Six rows to test on with two paraphrases each."""
    run.rows = stored_rows(run.storage, ["test"] * 18, versions_of(6, 6))
    return run


def test_paraphrases_are_measured_apart(reworded: Run) -> None:
    figures = reworded.make()
    rows = reworded.results()
    assert (figures["rows"], figures["test_rows"]) == (6, 6)
    assert (figures["version_rows"], figures["test_version_rows"]) == (6, 12)
    assert [row["version"] for row in rows[:6]] == ["original"] * 6
    assert {row["version"] for row in rows[6:]} == {"formal", "casual"}
    table = reworded.rows.mapped(["row_id", "parent_id", "input_ids", "answer_mask"])
    parents = dict(zip(table["row_id"].to_pylist(), table["parent_id"].to_pylist(), strict=True))
    # One paraphrase of each row that is answered.
    assert sorted(parents[row["row_id"]] for row in rows[6:]) == sorted(
        row["row_id"] for row in rows[:6]
    )
    for kind, some in (("rows", rows[:6]), ("versions", rows[6:])):
        for model in MODELS:
            found = figures["models"][model]
            found = found if kind == "rows" else found["versions"]
            scores = [float(row[f"{model}_rouge_l"]) for row in some]
            assert found["rouge_l"] == pytest.approx(sum(scores) / 6)
    tokens = [sum(mask[1:]) for mask in table["answer_mask"].to_pylist()]
    teacher = figures["models"]["teacher"]
    assert teacher["answer_tokens"] == sum(tokens[:6])
    assert teacher["versions"]["answer_tokens"] == sum(tokens[6:])

    reworded.storage.delete_folder("stages")
    figures = reworded.make(CONFIG.model_copy(update={"version_rows": 0}))
    assert figures["version_rows"] == 0 and "versions" not in figures["models"]["teacher"]


def test_rows_that_are_all_paraphrases_are_measured_as_they_are(run: Run) -> None:
    run.rows = stored_rows(run.storage, ["test"] * 4, {i: ("formal", 0) for i in range(4)})
    figures = run.make()
    assert (figures["rows"], figures["test_rows"], figures["version_rows"]) == (4, 4, 0)


def test_differences_have_intervals_over_independent_questions(run: Run) -> None:
    groups = {i: "twins" for i in range(4)}
    run.rows = stored_rows(run.storage, ["test"] * TEST, groups=groups)
    figures = run.make()
    assert (figures["rows"], figures["questions"]) == (8, figures["rows"] - shared(run, groups))
    assert figures["test_questions"] == TEST - 3
    by_pair = {(one["model"], one["than"], one["metric"]): one for one in figures["differences"]}
    assert {pair[:2] for pair in by_pair} == {
        ("student", other) for other in ("student-alone", "student-before", "teacher")
    }
    for (model, than, metric), one in by_pair.items():
        mine, others = (figures["models"][name][metric] for name in (model, than))
        expected = mine / others if metric == "perplexity" else mine - others
        assert one["value"] == pytest.approx(expected)
        assert one["low"] <= one["high"]
        number = "test_questions" if metric == "perplexity" else "questions"
        assert one["questions"] == figures[number]


def shared(run: Run, groups: Mapping[int, str]) -> int:
    """How many of the answered rows are of a group that another answered row is of."""
    ids = run.rows.mapped(["row_id"])["row_id"].to_pylist()
    answered = {row["row_id"] for row in run.results()}
    return max(0, len(answered & {ids[i] for i in groups}) - 1)


def test_a_model_that_diverged_is_measured_again_from_its_file(tmp_path: Path) -> None:
    figures = ModelFigures(["a"], [math.inf, 1.5], {"parameters": 1})
    assert ModelFigures.from_json(figures.to_json()) == figures
