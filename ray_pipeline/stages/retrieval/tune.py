"""Fine-tunes an embedding model on the golden set's training queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.config import Execution, nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.ranking import Judged, table
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
from ray_pipeline.stages.retrieval.baselines import BASELINES, MeasureRetrievers
from ray_pipeline.stages.retrieval.embed import EmbeddingModel, EmbedForRetrieval
from ray_pipeline.stages.retrieval.golden import GoldenSet
from ray_pipeline.stages.retrieval.measured import CHOOSE_BY
from ray_pipeline.stages.retrieval.write_golden import MINED, WriteGolden
from ray_pipeline.train.job import WorkersConfig
from ray_pipeline.train.retrieval.job import Encode, RetrieverJob, TuningConfig
from ray_pipeline.train.retrieval.pairs import TrainingPairs

#: Names of the run's models: ``retriever-1`` and its control, ``retriever-1-shuffled``.
PREFIX, SHUFFLED = "retriever-", "-shuffled"
TUNED = "retrieval/tuned.json"


@dataclass(frozen=True)
class RankValidation:
    """Ranks the validation queries against the contexts that they may see.

    Attributes:
        queries: texts with the model's prefix.
        contexts: texts with the model's prefix.
        judged: of each query, by numbers of these contexts.
    """

    queries: Sequence[str]
    contexts: Sequence[str]
    judged: Sequence[Judged]

    def __call__(self, encode: Encode) -> dict[str, float]:
        """NDCG@10, by which the epoch is chosen, and two further means."""
        scores = encode(self.queries) @ encode(self.contexts).T
        values = table(scores, self.judged)
        return {name: float(values[name].mean()) for name in (CHOOSE_BY, "mrr@10", "precision@1")}


class TuneRetriever(ArtifactStage):
    """Fine-tunes the base model on training queries and contexts: ``models/retriever-SEED``.

    It sees the text of contexts alone, without their tags. A context of a batch that the judgements
    call at least partly relevant to a query is not a negative of it. After each epoch the
    validation queries are ranked; the best epoch's weights are kept.

    The control, ``models/retriever-SEED-shuffled``, has the same updates on the same texts, with
    each query's context exchanged for another query's: what it gains is not of the pairs.
    """

    name = "tune-retriever"
    uses_seed = True

    class Config(StageConfig):
        base: str | None = Field(
            None,
            description="model of stages.embed that is fine-tuned; null: the one that is best on "
            "the validation queries, on the text alone",
        )
        tuning: TuningConfig = TuningConfig()
        pairs_per_query: int = Field(
            3, ge=1, description="relevant contexts of each training query that are trained on"
        )
        hard_negatives: int = Field(
            1, ge=0, description="hard negatives of each query in a batch, of those mined"
        )
        seeds: tuple[int, ...] = Field(
            (1,), min_length=1, description="seeds; each trains a model of its own"
        )
        control: bool = Field(True, description="train the control on shuffled pairs, too")
        workers: Annotated[WorkersConfig, Execution] = WorkersConfig()

    config: Config

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The stages that embed, judge and choose the base."""
        return (EmbedForRetrieval, WriteGolden, MeasureRetrievers)

    @property
    def makes(self) -> Sequence[str]:
        """The models, and the list of them."""
        return (TUNED, *(f"models/{name}/config.json" for name in self.names))

    @property
    def names(self) -> list[str]:
        """Names of the models, the control last."""
        tuned = [f"{PREFIX}{seed}" for seed in self.config.seeds]
        return [*tuned, *([f"{tuned[0]}{SHUFFLED}"] if self.config.control else [])]

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The golden set's columns."""
        return self.stage_of(WriteGolden).reads

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        """As the golden set."""
        return self.stage_of(WriteGolden).reads_of(source)

    def resources(self) -> Resources | None:
        """Resources of Ray Train's workers; None if the training runs in the run's own process."""
        workers = self.config.workers
        return None if workers.in_process else workers.resources()

    def check(self) -> None:
        """Check that the base is one of the models that embed, and that seeds differ."""
        names = list(self.stage_of(EmbedForRetrieval).config.models)
        if self.config.base is not None and self.config.base not in names:
            raise UserError(
                f"base: no model {self.config.base!r} in stages.embed.models"
                f"{nearest(self.config.base, names)}"
            )
        if len(set(self.config.seeds)) < len(self.config.seeds):
            raise UserError("seeds: two are equal, and would train the same model twice")

    def base(self, run: Storage) -> str:
        """Name of the base in ``stages.embed.models``."""
        chosen = orjson.loads(run.read_bytes(BASELINES) or b"{}").get("base")
        return self.config.base or str(chosen)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Train the models."""
        from ray_pipeline.train.launch import run_retriever_training

        golden = self.stage_of(WriteGolden).golden(rows)
        base = self.base(place.storage)
        embed = self.stage_of(EmbedForRetrieval)
        model = embed.config.models[base]
        folder = embed.model(f"models.{base}.model")
        results = {}
        for name in self.names:
            seed = int(name.removeprefix(PREFIX).removesuffix(SHUFFLED))
            data = self.data(golden, model, place.storage, seed)
            shuffled = name.endswith(SHUFFLED)
            job = RetrieverJob(
                data=data.shuffled(self.settings.seed + seed) if shuffled else data,
                base=folder,
                storage=place.storage,
                folder=f"{place.folder}/{name}",
                name=name,
                card=_card(name, model, golden, self.config),
                config=self.config.tuning,
                validate=validation(golden, model),
                seed=self.settings.seed + seed,
                max_tokens=model.max_tokens,
            )
            place.say(f"  {name}: {len(data.pairs)} pairs" + " of shuffled texts" * shuffled)
            results[name] = run_retriever_training(job, self.config.workers, place.say)
        result = {"base": base, "models": results}
        place.storage.write_bytes(TUNED, orjson.dumps(result))
        return {
            "base": base,
            "pairs": next(iter(results.values()))["pairs"],
            "models": {
                name: {k: v for k, v in one.items() if k != "history"}
                | {"validation": one["history"][one["best_epoch"]]}
                for name, one in results.items()
            },
        }

    def data(
        self, golden: GoldenSet, model: EmbeddingModel, run: Storage, seed: int
    ) -> TrainingPairs:
        """The training pairs, with texts as the model takes them."""
        numbers = golden.numbers("train")
        if not numbers:
            raise UserError("no query is left to train on: see stages.split-families.held_out")
        mined = orjson.loads(run.read_bytes(MINED) or b"{}")
        contexts = {row_id: place for place, row_id in enumerate(golden.context_ids)}
        generator = np.random.default_rng([self.settings.seed, seed])
        pairs: list[tuple[int, int]] = []
        grades: dict[int, dict[int, float]] = {}
        for place, number in enumerate(numbers):
            judged = golden.judged[number]
            relevant = generator.permutation(judged.relevant)[: self.config.pairs_per_query]
            pairs += [(place, int(context)) for context in relevant]
            grades[place] = dict(zip(judged.contexts.tolist(), judged.grades.tolist(), strict=True))
        most = self.config.hard_negatives
        return TrainingPairs(
            queries=[model.query_prefix + golden.queries[number].text for number in numbers],
            contexts=[model.context_prefix + text for text in golden.texts],
            pairs=np.array(pairs, np.int64),
            grades=grades,
            hard={
                place: [contexts[c] for c in mined.get(golden.queries[number].row_id, [])[:most]]
                for place, number in enumerate(numbers)
                if most
            },
        )


def validation(golden: GoldenSet, model: EmbeddingModel) -> RankValidation:
    """The ranking of the validation queries.

    Raises:
        UserError: there are none.
    """
    numbers = golden.numbers("validation")
    if not numbers:
        raise UserError(
            "no query is on the validation side, and the epoch is chosen by it: see "
            "stages.split-families.held_out.validation"
        )
    visible = np.flatnonzero(golden.visible("validation"))
    place: npt.NDArray[np.int64] = np.full(len(golden.texts), -1, np.int64)
    place[visible] = np.arange(len(visible))
    judged = [golden.judged[number] for number in numbers]
    return RankValidation(
        [model.query_prefix + golden.queries[number].text for number in numbers],
        [model.context_prefix + golden.texts[number] for number in visible.tolist()],
        [Judged(place[one.contexts], one.grades) for one in judged],
    )


def _card(name: str, model: EmbeddingModel, golden: GoldenSet, config: TuneRetriever.Config) -> str:
    """The model's README: what it is made of, what it reached, what it is not for."""
    loss = config.tuning.loss.name
    kind = "a control, trained on shuffled pairs: do not use it" if name.endswith(SHUFFLED) else (
        "fine-tuned to find writing prompts"
    )  # fmt: skip
    prefixes = f"queries `{model.query_prefix}`, contexts `{model.context_prefix}`"
    return (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n\n"
        f"# {name}\n\n`{model.model}`, {kind}.\n\n"
        f"## Training\n\n{len(golden.numbers('train'))} queries and "
        f"{int(golden.is_training.sum())} contexts without their tags; loss {loss}. "
        f"Prefixes: {prefixes}. Vectors are compared by cosine.\n\n"
        "{result}\n\n"
        "## Limits\n\nThe figures above are of validation queries, by which the epoch was chosen. "
        "Those of the test, with intervals, and what was forgotten on unrelated text are in the "
        "run's `exports/comparison.md`. Queries and prompts are in English; the test asks for "
        "genres and themes that were not trained on.\n"
    )
