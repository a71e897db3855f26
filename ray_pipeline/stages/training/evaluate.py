"""Evaluation of the run's models on the test split: their answers and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import torch
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.spreadsheets import without_formulas
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate import text as text_metrics
from ray_pipeline.evaluate.comparisons import Difference, Measured, PairedTest, ratio_over_seeds
from ray_pipeline.evaluate.generation import TextGenerator
from ray_pipeline.evaluate.model import ModelFigures, measure, nats_of_rows, size_on_disk
from ray_pipeline.models.decoding import Decoding, trained_format
from ray_pipeline.models.device import check_gpu, device
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.rundir.unreadable import tell
from ray_pipeline.stage import ArtifactStage, StageConfig, Workplace
from ray_pipeline.stages.training.distil import Distil, TrainAlone
from ray_pipeline.stages.training.measured_rows import MeasuredRows
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.stages.training.split import SplitStage
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.tokenise import Tokenise
from ray_pipeline.train.job import ModelSource

#: The file of all answers, relative to the run directory.
RESULTS = "exports/validation_results.csv"
#: The untrained student.
BEFORE = "student-before"


#: Pairs of models whose differences are measured: what distilling gained over training alone, what
#: training gained, and what the student lost against the teacher.
COMPARED = (("student", "student-alone"), ("student", BEFORE), ("student", "teacher"))


@dataclass(frozen=True)
class _Subject:
    """A model that is evaluated."""

    name: str
    source: ModelSource

    @property
    def is_saved(self) -> bool:
        """Whether it is stored in the run; the untrained student is created again instead."""
        return self.source.student is None


class Evaluate(ArtifactStage):
    """Measures teacher and students on the test rows: ``exports/validation_results.csv``.

    It measures the models that the run's stages made, and the student as it was before training.
    Each model's answers are stored as soon as they are made: a later attempt reads them.

    The figures are of the rows of the source; those of their paraphrases stand apart. The
    differences between models have intervals over independent questions.
    """

    name = "evaluate"
    version = 2
    needs_stages = (Tokenise,)
    makes = (RESULTS,)
    needs_test_rows = True
    reads = {
        "question": pa.string(),
        "answer": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "answer_mask": pa.list_(pa.bool_()),
        SPLIT: pa.string(),
    }
    uses_seed = True

    class Config(StageConfig):
        rows: int = Field(
            200,
            ge=1,
            description="maximum number of test rows of the source that the models answer; the "
            "perplexity is computed on all of them",
        )
        version_rows: int | None = Field(
            None,
            ge=0,
            description="maximum number of paraphrases of these rows that are answered, too, one "
            "of each row; 0: none; null: as `rows`",
        )
        max_new_tokens: int = Field(64, ge=1, description="maximum number of tokens per answer")
        dtype: Literal["float32", "bfloat16"] = Field(
            "float32", description="data type of the weights during the evaluation"
        )
        batch_rows: Annotated[int, Execution] = Field(
            32, ge=1, description="rows answered per batch"
        )
        batch_tokens: Annotated[int, Execution] = Field(
            8192, ge=1, description="tokens per forward pass for the perplexity, padding included"
        )
        gpu: Annotated[bool | None, Execution] = Field(
            None, description="run the models on a GPU; null: if this machine has one"
        )

    config: Config

    def check(self) -> None:
        """Check that there is a test split, and that this machine has a GPU if one is required."""
        split = self.find_stage(SplitStage)
        if split is not None and split.config.test == 0:
            raise UserError(
                f"stages.{split.name}.test is 0, so no row is kept aside: set it, as to 0.05"
            )
        check_gpu(self.config.gpu)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Evaluate the models that have no stored results, and write all answers."""
        test = self._test_rows(rows)
        measured = {
            subject.name: self._figures(subject, test, place) for subject in self._subjects()
        }
        answers = {name: one.answers for name, one in measured.items()}
        _write(place.storage, test, answers, self.settings.for_spreadsheets)
        models = {name: _summary(one, test) for name, one in measured.items()}
        for name, figures in models.items():
            place.say(_progress_line(name, figures))
        originals = test.are_originals
        return {
            "models": models,
            "differences": [one.to_json() for one in self._differences(measured, test)],
            **self._over_seeds(measured, test, place),
            "rows": len(test.originals),
            "questions": test.originals.number_of_questions,
            "version_rows": len(test.versions),
            "test_rows": int(originals.sum()),
            "test_questions": len(set(test.groups[originals])),
            "test_version_rows": int((~originals).sum()),
        }

    def _test_rows(self, rows: StoredRows) -> MeasuredRows:
        text = self.stage_of(Tokenise).config.text
        require_rows(self, rows, test="to evaluate on")
        limit, versions = self.config.rows, self.config.version_rows
        return MeasuredRows(
            rows,
            text.question_column,
            text.answer_column,
            limit=limit,
            version_limit=limit if versions is None else versions,
            seed=self.settings.seed,
        )

    def _differences(
        self, models: Mapping[str, ModelFigures], test: MeasuredRows
    ) -> list[Difference]:
        originals, asked = test.are_originals, test.originals
        paired = PairedTest(
            asked.references,
            asked.groups,
            test.tokens.answer_tokens[originals].tolist(),
            test.groups[originals].tolist(),
            self.settings.seed,
        )
        measured = {
            name: Measured(one.answers[: len(asked)], np.array(one.nats)[originals].tolist())
            for name, one in models.items()
        }
        return paired.differences(measured, COMPARED)

    def _over_seeds(
        self, models: Mapping[str, ModelFigures], test: MeasuredRows, place: Workplace
    ) -> dict[str, Any]:
        """Both students of every seed, if they were trained several times."""
        distil, alone = self.find_stage(Distil), self.find_stage(TrainAlone)
        if distil is None or alone is None or distil.config.seeds == 1:
            return {}
        originals = test.are_originals
        ours, others = (
            [
                np.array((models.get(name) or self._nats(name, test, place)).nats)[originals]
                for name in stage.model_names
            ]
            for stage in (distil, alone)
        )
        tokens = test.tokens.answer_tokens[originals].tolist()
        left_out = distil.config.leave_out
        return {"seeds": ratio_over_seeds(ours, others, tokens) | {"left_out": left_out}}

    def _nats(self, name: str, test: MeasuredRows, place: Workplace) -> ModelFigures:
        """The cross-entropy of a model of another seed, which answers no questions."""

        def measured() -> ModelFigures:
            place.say(f"  measuring {name}")
            source, config = ModelSource(name, of_run=True), self.config
            model = source.build(place.storage, 0).eval()
            model = model.to(device(config.gpu), getattr(torch, config.dtype))
            nats = nats_of_rows(model, test.tokens, config.batch_rows, config.batch_tokens)
            return ModelFigures([], nats.tolist(), {})

        return _stored(f"{place.folder}/{name}.json", place.storage, measured)

    def _subjects(self) -> Iterator[_Subject]:
        if self.find_stage(TrainTeacher) is not None:
            yield _Subject("teacher", ModelSource("teacher", of_run=True))
        if (distil := self.find_stage(Distil)) is not None:
            yield _Subject(BEFORE, distil.source)
            yield _Subject("student", ModelSource("student", of_run=True))
        if self.find_stage(TrainAlone) is not None:
            yield _Subject("student-alone", ModelSource("student-alone", of_run=True))

    def _figures(self, subject: _Subject, test: MeasuredRows, place: Workplace) -> ModelFigures:
        """The metrics of a model, measured now or by an earlier attempt."""

        def measured() -> ModelFigures:
            place.say(f"  asking {subject.name}")
            return self._measured(subject, test, place.storage)

        return _stored(f"{place.folder}/{subject.name}.json", place.storage, measured)

    def _measured(self, subject: _Subject, test: MeasuredRows, storage: Storage) -> ModelFigures:
        folder = subject.source.folder(storage)
        tokenizer = load_tokenizer(folder)
        model = subject.source.build(storage, self._student_seed())
        generator = TextGenerator(
            model.to(device(self.config.gpu), getattr(torch, self.config.dtype)),
            tokenizer,
            trained_format(folder, tokenizer),
        )
        config = self.config
        found = measure(
            generator,
            [*test.originals.questions, *test.versions.questions],
            test.tokens,
            Decoding(config.max_new_tokens),
            config.batch_rows,
            config.batch_tokens,
        )
        disk = size_on_disk(folder) if subject.is_saved else {"bytes": None, "dtype": None}
        return replace(found, figures={**found.figures, **disk})

    def _student_seed(self) -> int:
        """The seed with which `Distil` initialises its student, to get the same initial weights."""
        distil = self.find_stage(Distil)
        return 0 if distil is None else self.settings.seed + distil.config.loop.seed


def _stored(path: str, storage: Storage, measured: Callable[[], ModelFigures]) -> ModelFigures:
    """The figures in a file; measured and written if there are none that can be read."""
    if (raw := storage.read_bytes(path)) is not None:
        try:
            return ModelFigures.from_json(raw)
        except (ValueError, KeyError, TypeError) as error:
            tell(storage, path, error)
    figures = measured()
    storage.write_bytes(path, figures.to_json())
    return figures


def _summary(model: ModelFigures, test: MeasuredRows) -> dict[str, Any]:
    """The figures of a model on the rows of the source, and on paraphrases under ``versions``."""
    originals, asked = test.are_originals, len(test.originals)
    summary = {
        **text_metrics.summary(model.answers[:asked], test.originals.references),
        **_perplexity(model, test, originals),
        **model.figures,
    }
    if len(test.versions):
        summary["versions"] = {
            **text_metrics.summary(model.answers[asked:], test.versions.references),
            **_perplexity(model, test, ~originals),
        }
    return summary


def _perplexity(
    model: ModelFigures, test: MeasuredRows, rows: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    tokens = int(test.tokens.answer_tokens[rows].sum())
    nats = math.fsum(np.array(model.nats)[rows])
    return {"perplexity": text_metrics.perplexity(nats, tokens), "answer_tokens": tokens}


def _write(
    storage: Storage,
    test: MeasuredRows,
    answers: Mapping[str, list[str]],
    for_spreadsheets: bool,
) -> None:
    """Write one line per row, with each model's answer and its scores."""
    asked = (test.originals, test.versions)
    references = [text for rows in asked for text in rows.references]
    columns: dict[str, Any] = {
        "row_id": [row_id for rows in asked for row_id in rows.row_ids],
        "version": [version for rows in asked for version in rows.versions],
        "question": [question for rows in asked for question in rows.questions],
        "reference": references,
    }
    for model, texts in answers.items():
        columns[f"{model}_answer"] = texts
        for metric, values in text_metrics.scores(texts, references).items():
            columns[f"{model}_{metric}"] = values
    table = pa.table(columns)
    with storage.writer(RESULTS) as file:
        pacsv.write_csv(without_formulas(table) if for_spreadsheets else table, file)


def _progress_line(name: str, figures: Mapping[str, Any]) -> str:
    return (
        f"  {name}: BLEU {figures['bleu']:.1f}, ROUGE-L {figures['rouge_l']:.3f}, perplexity "
        f"{figures['perplexity']:.2f}, {1000 * figures['latency_seconds']:.0f} ms an answer"
    )
