"""What models and controls predict for every pair of the validation and the test split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.spreadsheets import without_formulas
from ray_pipeline.evaluate.classification import LabelledRows, vote_calibration
from ray_pipeline.evaluate.pair_controls import CONTROLS, Pairs, predictions
from ray_pipeline.models.device import check_gpu, device
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.rundir.models import get_model
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
from ray_pipeline.stages.reasoning.pair_text import PairFormat
from ray_pipeline.stages.reasoning.split_pairs import PairsInTwoSplits
from ray_pipeline.stages.reasoning.stored_pairs import all_pairs
from ray_pipeline.stages.reasoning.think import SPLIT_FILES, Think
from ray_pipeline.stages.reasoning.tune_pairs import TunePairs
from ray_pipeline.stages.reasoning.validate_pairs import (
    HYPOTHESIS,
    LABEL,
    PAIR,
    PREMISE,
    ValidatePairs,
)

#: The file of all predictions, relative to the run directory.
PREDICTIONS = "exports/nli_predictions.csv"
BASE, THINKER = "base", "thoughts"
#: Pairs without content, from which the base model's preference for a label is taken.
_CONTENT_FREE = (("N/A", "N/A"), ("", ""), ("[MASK]", "[MASK]"))


class EvaluatePairs(ArtifactStage):
    """Measures models and controls on all pairs that are held out: ``nli_predictions.csv``.

    The tuned models and the model before tuning; the thoughts of `Think`, on the rows that were
    asked about; and the controls (`evaluate.pair_controls`). Every pair counts: an answer without a
    label is wrong. A model that was tuned on labels, and the base, are asked for the likelihood of
    each label; the base's is corrected for its preference on pairs without content (contextual
    calibration, Zhao et al. 2021). A model that was tuned on reasonings writes its answer.

    Intervals resample components of sentences. Each model is compared with every control, and the
    tuned models with each other and with the base.
    """

    name = "evaluate-pairs"
    makes = (PREDICTIONS,)
    needs_stages: tuple[type[Stage], ...] = (ValidatePairs, PairsInTwoSplits)
    uses_seed = True
    reads = {**PAIR, LABEL: pa.string(), SPLIT: pa.string()}

    class Config(StageConfig):
        rows: int | None = Field(
            None,
            ge=1,
            description="pairs of each split that are measured on, at most; null: all. Fewer give "
            "wider intervals, and no figure for the whole file",
        )
        max_new_tokens: int = Field(
            200, ge=1, description="tokens of an answer with a reasoning, at most"
        )
        batch_rows: Annotated[int, Execution] = Field(
            32, ge=1, description="rows answered per batch"
        )
        batch_tokens: Annotated[int, Execution] = Field(
            4096, ge=1, description="tokens per forward pass for likelihoods, padding included"
        )
        gpu: Annotated[bool | None, Execution] = Field(
            None, description="run the models on a GPU; null: if this machine has one"
        )

    config: Config

    def check(self) -> None:
        """Check that this machine has a GPU if one is required."""
        check_gpu(self.config.gpu)

    @property
    def _labels(self) -> tuple[str, ...]:
        labels: tuple[str, ...] = self.stage_of(ValidatePairs).config.labels
        return labels

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Predict what has no stored predictions, and measure all of them."""
        held_out = {split: self._held_out(rows, split) for split in ("validation", "test")}
        held_out = {split: each for split, each in held_out.items() if each.num_rows}
        train = _pairs(self._rows(rows, "train"))
        found: dict[str, dict[str, list[str | None]]] = {split: {} for split in held_out}
        for split, table in held_out.items():
            said = predictions(train, _pairs(table), self.settings.seed)
            found[split] |= {name: list(said[name]) for name in CONTROLS}
        for subject in self._subjects():
            for split, labels in self._predicted(subject, held_out, place).items():
                found[split][subject.name] = labels
        thoughts = self._thoughts(rows, held_out)
        _write(place, held_out, found, thoughts, self.settings.for_spreadsheets)
        splits = {
            SPLIT_FILES[split]: self._figures(held_out[split], found[split], thoughts[split])
            for split in held_out
        }
        for split, each in splits.items():
            for name, figures in each["models"].items():
                place.say(
                    f"  {split}, {name}: accuracy {figures['accuracy']['value']:.3f}, macro-F1 "
                    f"{figures['macro_f1']['value']:.3f}, {figures['unparsable']:.0%} without label"
                )
        return {"labels": list(self._labels), "splits": splits, "train_pairs": len(train.labels)}

    def _rows(self, rows: StoredRows, split: str) -> pa.Table:
        """All pairs of a split, whatever became of them after it."""
        more = [name for name in ("split_group", "kind") if name in rows.columns]
        names = ["row_id", *PAIR, LABEL, *more]
        return all_pairs(self, rows).mapped(names, **{SPLIT: split})

    def _held_out(self, rows: StoredRows, split: str) -> pa.Table:
        table = self._rows(rows, split)
        limit = self.config.rows
        if limit is None or table.num_rows <= limit:
            return table
        from ray_pipeline.stages.training.measured_rows import chosen

        places = chosen(table["row_id"].to_pylist(), limit, self.settings.seed)
        return table.take(pa.array(places, pa.int64()))

    def _subjects(self) -> Iterator[_Subject]:
        """The models: the base of the first training, and each tuned model."""
        tuned = [
            stage.bound(stage.config, self.settings)
            for stage in self.settings.stages
            if isinstance(stage, TunePairs) and not stage.is_off
        ]
        of_labels = [stage for stage in tuned if stage.kind == "labels"]
        if of_labels:
            stage = of_labels[0]
            yield _Subject(BASE, stage, is_tuned=False)
        for stage in tuned:
            yield _Subject(stage.model_name, stage)

    def _predicted(
        self, subject: _Subject, held_out: Mapping[str, pa.Table], place: Workplace
    ) -> dict[str, list[str | None]]:
        """A model's labels for each split, from storage or asked for now."""
        path = f"{place.folder}/{subject.name}.json"
        raw = place.storage.read_bytes(path)
        if raw is not None:
            stored: dict[str, list[str | None]] = orjson.loads(raw)
            if {s: len(each) for s, each in stored.items()} == {
                split: table.num_rows for split, table in held_out.items()
            }:
                return stored
        place.say(f"  asking {subject.name}")
        stage = subject.stage
        folder = (
            get_model(place.storage, stage.model_name) if subject.is_tuned else stage.model("model")
        )
        ask = self._likeliest if stage.kind == "labels" else self._written
        made = {split: ask(folder, subject, table) for split, table in held_out.items()}
        place.storage.write_bytes(path, orjson.dumps(made))
        return made

    def _likeliest(self, folder: str, subject: _Subject, table: pa.Table) -> list[str | None]:
        """The label whose word, with the end of the answer, is most likely."""
        import torch

        from ray_pipeline.evaluate.log_probs import TextScorer
        from ray_pipeline.models.tokenizer import load_tokenizer
        from ray_pipeline.train.student import load

        stage, form = subject.stage, subject.stage.config.format
        model = load(folder, torch.float32).to(device(self.config.gpu))
        tokenizer = load_tokenizer(folder)
        scorer = TextScorer(model, tokenizer, stage.text, self.config.batch_tokens)
        words = [form.word(label) for label in self._labels]
        scores = _scores(scorer, _questions(form, table), words)
        if not subject.is_tuned:
            free = [form.ask(*pair) for pair in _CONTENT_FREE]
            scores = scores - _scores(scorer, free, words).mean(axis=0)
        return [self._labels[place] for place in scores.argmax(axis=1)]

    def _written(self, folder: str, subject: _Subject, table: pa.Table) -> list[str | None]:
        """The label at the end of what the model writes; None where there is none."""
        import torch

        from ray_pipeline.evaluate.generation import TextGenerator
        from ray_pipeline.models.decoding import Decoding
        from ray_pipeline.models.tokenizer import load_tokenizer
        from ray_pipeline.train.student import load

        form = subject.stage.config.format
        where = device(self.config.gpu)
        dtype = torch.bfloat16 if where == "cuda" else torch.float32
        model = load(folder, dtype).to(where)
        generator = TextGenerator(model, load_tokenizer(folder), subject.stage.text)
        decoding = Decoding(self.config.max_new_tokens)
        answers = generator(_questions(form, table), decoding, self.config.batch_rows)
        return [form.read(answer.text, self._labels)[0] for answer in answers]

    def _thoughts(
        self, rows: StoredRows, held_out: Mapping[str, pa.Table]
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Of each split: what `Think` predicted for the rows that it was asked about, by row id.

        Rows that failed after it are read where they are, in the parts of its segment.
        """
        empty: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in held_out}
        if self.find_stage(Think) is None or "think_state" not in rows.columns:
            return empty
        from ray_pipeline.rundir.layout import part_of, part_path, segment_folder

        stage = self.stage_of(Think)
        index = [each.name for each in self.settings.stages].index(stage.name) + 1
        folder = segment_folder(index, stage.name)
        paths = tuple(part_path(folder, part_of(path)[1]) for path in rows.paths)
        columns = ["row_id", SPLIT, "think_state", "predicted_label", "vote_share"]
        for table in StoredRows(rows.storage, paths, rows.digest).tables(columns):
            for row in table.filter(pc.equal(table["think_state"], "asked")).to_pylist():
                if row[SPLIT] in empty:
                    empty[row[SPLIT]][row["row_id"]] = row
        return empty

    def _figures(
        self,
        table: pa.Table,
        found: Mapping[str, Sequence[str | None]],
        thoughts: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The figures of one split."""
        truth, groups = table[LABEL].to_pylist(), _groups(table)
        rows = LabelledRows(truth, self._labels, groups, self.settings.seed)
        models = [name for name in found if name not in CONTROLS]
        compared = [(name, other) for name in models for other in CONTROLS]
        compared += [(one, two) for at, one in enumerate(models) for two in models[:at]]
        result: dict[str, Any] = {
            "rows": len(rows),
            "groups": len(set(groups)),
            "models": {name: rows.figures(said).to_json() for name, said in found.items()},
            "comparisons": [
                {"model": one, "than": two, **rows.compare(found[one], found[two])}
                for one, two in compared
            ],
        }
        if "kind" in table.column_names:
            result["by_kind"] = _by_kind(table, found)
        if thoughts:
            result["thoughts"] = self._thought_figures(table, found, thoughts)
        return result

    def _thought_figures(
        self,
        table: pa.Table,
        found: Mapping[str, Sequence[str | None]],
        thoughts: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The thoughts, and all others on the same rows: those that were asked about."""
        ids = table["row_id"].to_pylist()
        places = [at for at, row_id in enumerate(ids) if row_id in thoughts]
        if not places:
            return {"rows": 0}
        part = table.take(pa.array(places, pa.int64()))
        truth = part[LABEL].to_pylist()
        rows = LabelledRows(truth, self._labels, _groups(part), self.settings.seed)
        asked = [thoughts[ids[at]] for at in places]
        said = [each["predicted_label"] for each in asked]
        others = {name: [each[at] for at in places] for name, each in found.items()}
        votes = [
            (each["vote_share"] or 0.0, each["predicted_label"] == label)
            for each, label in zip(asked, truth, strict=True)
        ]
        return {
            "rows": len(rows),
            "models": {
                name: rows.figures(each).to_json()
                for name, each in {THINKER: said, **others}.items()
            },
            "comparisons": [
                {"model": THINKER, "than": name, **rows.compare(said, each)}
                for name, each in others.items()
            ],
            "vote": vote_calibration([share for share, _ in votes], [right for _, right in votes]),
        }


@dataclass(frozen=True)
class _Subject:
    """A model that is measured: a tuned one, or its base."""

    name: str
    stage: TunePairs
    is_tuned: bool = True


def _scores(scorer: Any, questions: Sequence[str], words: Sequence[str]) -> Any:
    """Log-probability of each word, with its end, as the answer to each question; [rows, words]."""
    asked = [question for question in questions for _ in words]
    made = scorer.answers(asked, list(words) * len(questions))
    return np.array([each.total for each in made]).reshape(len(questions), len(words))


def _questions(form: PairFormat, table: pa.Table) -> list[str]:
    columns = (table[name].to_pylist() for name in (PREMISE, HYPOTHESIS))
    return [form.ask(*pair) for pair in zip(*columns, strict=True)]


def _pairs(table: pa.Table) -> Pairs:
    return Pairs(*(table[name].to_pylist() for name in (PREMISE, HYPOTHESIS, LABEL)))


def _groups(table: pa.Table) -> list[str]:
    """Names of the components of sentences; a row without one is its own."""
    ids = table["row_id"]
    named = pc.coalesce(table["split_group"], ids) if "split_group" in table.column_names else ids
    groups: list[str] = named.to_pylist()
    return groups


def _by_kind(
    table: pa.Table, found: Mapping[str, Sequence[str | None]]
) -> dict[str, dict[str, Any]]:
    """Accuracy of each predictor by the kind of a pair, where the source names kinds."""
    kinds = [kind or "" for kind in table["kind"].to_pylist()]
    truth = table[LABEL].to_pylist()
    if len(set(kinds)) > 30:  # a column with another meaning
        return {}
    result: dict[str, dict[str, Any]] = {}
    for kind in sorted(set(kinds)):
        places = [at for at, each in enumerate(kinds) if each == kind]
        right = {
            name: sum(said[at] == truth[at] for at in places) / len(places)
            for name, said in found.items()
        }
        result[kind] = {"rows": len(places), "accuracy": right}
    return result


def _write(
    place: Workplace,
    held_out: Mapping[str, pa.Table],
    found: Mapping[str, Mapping[str, Sequence[str | None]]],
    thoughts: Mapping[str, Mapping[str, Mapping[str, Any]]],
    for_spreadsheets: bool,
) -> None:
    """Write one line per held-out pair with what everyone predicts."""
    tables = []
    for split, table in held_out.items():
        said = [thoughts[split].get(row_id) for row_id in table["row_id"].to_pylist()]
        columns: dict[str, Any] = {
            "split": pa.array([SPLIT_FILES[split]] * table.num_rows, pa.string()),
            **{name: table[name] for name in ("row_id", *PAIR, LABEL)},
            **{name: pa.array(list(each), pa.string()) for name, each in found[split].items()},
            THINKER: pa.array([each and each["predicted_label"] for each in said], pa.string()),
        }
        tables.append(pa.table(columns))
    whole = pa.concat_tables(tables) if tables else pa.table({"split": pa.array([], pa.string())})
    with place.storage.writer(PREDICTIONS) as file:
        pacsv.write_csv(without_formulas(whole) if for_spreadsheets else whole, file)
