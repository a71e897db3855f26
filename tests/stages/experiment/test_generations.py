"""The kept models of the first seed complete the same instructions, once, and reproducibly."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
import torch
from support.made_cells import cells, record, records
from support.stored_parts import put_part
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.generation import TextGenerator
from ray_pipeline.models.text import TextConfig
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.experiment.generations import (
    OF_ALL,
    OF_EACH,
    RESULTS,
    SubsetGenerations,
    with_models,
)
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.store import put_model

CONFIG = SubsetGenerations.Config(prompts=4, samples=3, max_tokens=6, batch_rows=5, gpu=False)
WORDS = "abcdef"
MODELS = {"few": 0, "few-random": 1}


TOKENISE = Tokenise("question", "answer").bound({"model": "some"})


@dataclass
class Run:
    """A run directory with two kept models and ten test rows."""

    storage: Storage
    rows: StoredRows
    told: list[str] = field(default_factory=list)

    def make(self, config: SubsetGenerations.Config = CONFIG, seed: int = 5) -> dict[str, Any]:
        settings = Settings(seed=seed, stages=[TOKENISE])
        place = Workplace(self.storage, "stages/11-generations/work", self.told.append)
        return SubsetGenerations().bound(config, settings).make(self.rows, place)

    def results(self) -> list[dict[str, str]]:
        with self.storage.local_path(RESULTS).open(newline="") as file:
            return list(csv.DictReader(file))


def stored_rows(storage: Storage, split: str = "test") -> StoredRows:
    rows = {
        "instruction": [
            f"what is the capital of {x} {y} ?" for x, y in zip(WORDS, WORDS[::-1], strict=True)
        ]
        * 2,
        "response": [f" answer {x} " for x in WORDS] * 2,
        "split": [split, "train"] * 6,
    }
    table = with_envelope(pa.table(rows), [f"row-{n:02d}" for n in range(12)])
    put_part(storage.local_path("part.parquet"), table)
    return StoredRows(storage, ("part.parquet",), "digest")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    storage = Storage(str(tmp_path / "run"))
    for name, seed in MODELS.items():
        put_model(storage, name, tiny_model("gpt2", seed=seed, layers=1), word_tokenizer(),
                  TextConfig(), torch.float32)  # fmt: skip
        for of_seed in (1, 2):
            one = record("few", of_seed, 3.0, 100, control=name != "few")
            one["model"] = f"models/{name}" if of_seed == 1 else None
            storage.write_bytes(f"experiment/cells/{one['cell']}.json", orjson.dumps(one))
    return Run(storage, stored_rows(storage))


def test_every_completion_stands_in_the_file_with_its_measures(run: Run) -> None:
    figures = run.make()
    rows = run.results()
    assert (figures["prompts"], figures["samples"]) == (4, 3)
    assert len(rows) == 2 * 4 * 3
    assert [row["sample"] for row in rows[:3]] == ["1", "2", "3"]
    assert len({row["instruction"] for row in rows[:3]}) == 1
    for cell in figures["cells"].values():
        mine = [row for row in rows if row["subset"] == cell["subset"]]
        assert len({row["row_id"] for row in mine}) == 4
        for name in OF_EACH:
            values = [float(row[name]) for row in mine if row[name]]
            assert cell[name]["mean"] == pytest.approx(sum(values) / len(values))
        for name in OF_ALL:
            assert all(0 <= float(row[name]) <= 1 for row in mine)
        assert cell["empty"] == sum(not row["completion"] for row in mine)
        assert 0 <= cell["instruction_following_by_chance"] <= 1
    assert orjson.loads(orjson.dumps(figures)) == figures


def test_models_complete_the_same_instructions_and_differ(run: Run) -> None:
    run.make()
    few, random = ([r for r in run.results() if r["subset"] == name] for name in MODELS)
    assert [row["row_id"] for row in few] == [row["row_id"] for row in random]
    assert [row["completion"] for row in few] != [row["completion"] for row in random]


def test_the_same_seed_draws_the_same_and_another_one_does_not(run: Run) -> None:
    run.make()
    first = run.storage.read_bytes(RESULTS)
    run.storage.delete_folder("stages")
    run.make()
    assert run.storage.read_bytes(RESULTS) == first
    run.storage.delete_folder("stages")
    run.make(seed=6)
    assert run.storage.read_bytes(RESULTS) != first


def test_a_killed_attempt_is_gone_on_with(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.make()
    kept = run.storage.read_bytes(RESULTS)
    work = sorted(run.storage.list("stages/11-generations/work"))
    assert len(work) == 2
    run.storage.delete(work[1])
    asked, real = [], TextGenerator.__call__

    def counted(self: TextGenerator, *rest: Any, **more: Any) -> Any:
        asked.append(1)
        return real(self, *rest, **more)

    monkeypatch.setattr(TextGenerator, "__call__", counted)
    assert run.make() == whole and len(asked) == 1
    assert run.storage.read_bytes(RESULTS) == kept


def test_empty_completions_are_counted_and_measured(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: TextGenerator, prompts: Any, *rest: Any) -> list[list[int]]:
        return [[min(self.text.ends)]] * len(prompts)

    monkeypatch.setattr(TextGenerator, "_tokens", silent)
    figures = run.make()
    for cell in figures["cells"].values():
        assert cell["empty"] == 12 and cell["ended"] == 1
        assert {cell[name]["mean"] for name in (*OF_EACH, *OF_ALL)} == {0}


def test_a_reference_model_reads_what_is_not_empty(run: Run) -> None:
    figures = run.make()
    assert all(one["reference_perplexity"] is None for one in figures["cells"].values())
    run.storage.delete_folder("stages")
    folder = str(run.storage.local_path("models/few-random"))
    config = CONFIG.model_copy(update={"reference_model": "reader"})
    settings = Settings(seed=5, stages=[TOKENISE], models={"reader": folder})
    stage = SubsetGenerations().bound(config, settings)
    assert stage.models == {"reference_model": "reader"}
    assert SubsetGenerations().bound(CONFIG).models == {}
    place = Workplace(run.storage, "stages/11-generations/work", run.told.append)
    by_subset = {one["subset"]: one for one in stage.make(run.rows, place)["cells"].values()}
    # What it wrote itself reads better to it than what another one wrote.
    read = {name: by_subset[name]["reference_perplexity"] for name in MODELS}
    assert 1 < read["few-random"] < read["few"]
    for row in run.results():
        assert bool(row["reference_nats"]) is bool(row["completion"])


def test_a_completions_nats_are_the_models_own_loss(run: Run) -> None:
    from ray_pipeline.evaluate.model import ReferenceModel

    reader = ReferenceModel(str(run.storage.local_path("models/few")), "cpu", torch.float32)
    whole = [i for text in ("what is a\n", "b c d") for i in reader.tokenizer(text)["input_ids"]]
    labels = torch.tensor([whole])
    labels[0, : len(whole) - 3] = -100
    with torch.no_grad():
        loss = reader.model(input_ids=torch.tensor([whole]), labels=labels).loss
    assert reader.nats_per_token("what is a", "b c d") == pytest.approx(float(loss), rel=1e-5)
    assert reader.nats_per_token("what is a", " \n") is None
    assert reader.nats_per_token("a " * 99, "b") is None  # beyond its last position


def test_drawing_obeys_top_p() -> None:
    from ray_pipeline.models.decoding import Decoding

    ask = TextGenerator(tiny_model("gpt2"), word_tokenizer())
    greedy = ask(["what is a ?"] * 4, Decoding(8))
    # So small a share that the likeliest token alone has it.
    assert ask(["what is a ?"] * 4, Decoding(8, 1.0, 3, top_p=1e-6)) == greedy
    assert ask(["what is a ?"] * 4, Decoding(8, 1.0, 3)) != greedy


def test_without_a_model_there_is_an_empty_table(run: Run) -> None:
    for path in list(run.storage.list("experiment/cells")):
        one = orjson.loads(run.storage.read_bytes(path) or b"") | {"model": None}
        run.storage.write_bytes(path, orjson.dumps(one))
    assert run.make()["cells"] == {}
    assert run.results() == [] and run.storage.exists(RESULTS)
    assert any("no model" in line for line in run.told)


def test_without_test_rows_it_says_what_to_do(run: Run) -> None:
    run.rows = stored_rows(run.storage, "validation")
    with pytest.raises(UserError, match=r"no test rows.*stages\.split\.test"):
        run.make()


def test_models_are_those_of_the_first_seed_at_the_chosen_rate() -> None:
    assert {cell.seed for cell in with_models(cells())} == {1}
    assert len(with_models(cells(modes=("epochs", "tokens")))) == 12
    rates = [
        record(seed=1, learning_rate=rate, validation_loss=loss)
        for rate, loss in [(1e-4, 3.0), (2e-4, 2.0)]
    ]
    from ray_pipeline.evaluate.experiment.cells import Cell

    (chosen,) = with_models([Cell.from_json(one) for one in rates])
    assert chosen.learning_rate == 2e-4
    made = [Cell.from_json(one | {"model": None}) for one in records()]
    assert with_models(made) == []
