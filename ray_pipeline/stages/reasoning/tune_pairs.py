"""Fine-tuning of a model on pairs: on their labels alone, or on reasonings that lead to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.rows import KEPT, with_envelope
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.rundir.layout import SPLIT, TOKENS
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
from ray_pipeline.stages.reasoning.pair_text import PairFormat
from ray_pipeline.stages.reasoning.split_pairs import PairsInTwoSplits
from ray_pipeline.stages.reasoning.stored_pairs import all_pairs
from ray_pipeline.stages.reasoning.validate_pairs import (
    HYPOTHESIS,
    LABEL,
    PAIR,
    PREMISE,
    ValidatePairs,
)
from ray_pipeline.stages.text.keys import text_hash
from ray_pipeline.train.adapters import AdapterConfig
from ray_pipeline.train.batches import BatchConfig
from ray_pipeline.train.job import ModelSource, TrainingJob, WorkersConfig
from ray_pipeline.train.loop import LoopConfig

#: Words of one token for the usual labels, in the tokenizers of GPT-2, SmolLM2 and Mistral.
WORDS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
Kind = Literal["labels", "reasoning"]


class TunePairs(ArtifactStage):
    """Fine-tunes a model on the pairs: ``models/tuned-labels``, ``models/tuned-reasoning``.

    On labels it learns from every training pair, on reasonings from those that have one
    (`ChooseReasoning`). The loss is over the answer and its end. The label's share of these tokens
    is in the figures: with a long reasoning most of the loss is not about the label.

    Args:
        kind: ``labels`` or ``reasoning``.
        defaults: of the configuration.
    """

    needs_stages: tuple[type[Stage], ...] = (ValidatePairs, PairsInTwoSplits)
    uses_seed = True

    class Config(StageConfig):
        model: str | None = Field(
            None,
            description="model to fine-tune: a packaged name, a folder or a Hugging Face id; null: "
            "the stage is off",
        )
        method: Literal["full", "lora"] = Field(
            "full",
            description="full: train all weights; lora: train an adapter and merge it into the "
            "weights; with adapter.four_bit QLoRA",
        )
        adapter: AdapterConfig = AdapterConfig()
        format: PairFormat = PairFormat()
        system: str | None = Field(
            "You decide how a hypothesis relates to a premise.",
            description="system message of the chat. Some templates, as SmolLM2's, insert one of "
            "their own where there is none",
        )
        max_tokens: int = Field(
            512,
            ge=8,
            description="tokens of a pair and its answer, at most; longer ones are left "
            "out and counted",
        )
        rows: int | None = Field(
            None,
            ge=1,
            description="training pairs, at most; which, is drawn with the seed, and those of a "
            "smaller number are among those of a larger one; null: all",
        )
        only_with_reasoning: bool = Field(
            False,
            description="of the pairs, only those that have a reasoning: the same rows as the "
            "reasoning is learnt from, as a control",
        )
        origins: tuple[Literal["thoughts", "reflection"], ...] = Field(
            ("thoughts", "reflection"),
            description="where the reasonings come from; [thoughts] shows what reflections add",
        )
        shuffle_reasoning: bool = Field(
            False,
            description="give each pair the reasoning of another pair with its label, as a "
            "control: does the content of a reasoning matter?",
        )
        loop: LoopConfig = LoopConfig(learning_rate=5e-5, epochs=1)
        batches: BatchConfig = BatchConfig(step_rows=16)
        workers: Annotated[WorkersConfig, Execution] = WorkersConfig()

    config: Config

    def __init__(self, kind: Kind, **defaults: Any) -> None:
        if kind == "labels":
            form = PairFormat(answer="{label}", label_words=WORDS)
            defaults = {"format": form, **defaults}
        super().__init__(**{"name": f"tune-{kind}", **defaults})
        self.kind = kind

    @property
    def model_name(self) -> str:
        """Name of the model in the run."""
        return self.name.replace("tune-", "tuned-", 1)

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.model is None

    @property
    def makes(self) -> tuple[str, ...]:
        """The model."""
        return (f"models/{self.model_name}/config.json",)

    @property
    def models(self) -> Mapping[str, str]:
        """The model to fine-tune."""
        return {} if self.config.model is None else {"model": self.config.model}

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The pairs; their reasoning where it is learnt."""
        columns = {**PAIR, LABEL: pa.string(), SPLIT: pa.string()}
        return {**columns, "reasoning": pa.string(), "origin": pa.string()}

    @property
    def text(self) -> TextConfig:
        """How pairs become texts."""
        return TextConfig(
            system=self.config.system, max_tokens=self.config.max_tokens, overlong="drop"
        )

    def check(self) -> None:
        """Check that the format fits what is learnt, and the adapter this machine."""
        if self.config.method == "lora":
            self.config.adapter.check()
        if self.config.format.has_reasoning != (self.kind == "reasoning"):
            raise UserError(
                f"format.answer: {self.kind} are learnt, so {{reasoning}} "
                f"{'must' if self.kind == 'reasoning' else 'must not'} be in it"
            )
        labels = self.stage_of(ValidatePairs).config.labels
        if unknown := sorted(set(self.config.format.label_words) - set(labels)):
            if self.config.format.label_words == WORDS:
                raise UserError(
                    f"format.label_words: there are words for {', '.join(unknown)}, and none of "
                    f"validate-pairs.labels: give each of {', '.join(labels)} a word, or set {{}}"
                )
            raise UserError(f"format.label_words: {', '.join(unknown)} is no label of the run")

    def resources(self) -> Resources | None:
        """Resources of Ray Train's workers; None if the training runs in the run's own process."""
        config = self.config.workers
        return None if config.in_process else config.resources()

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Tokenise the pairs and train."""
        from ray_pipeline.train.launch import run_training

        tokens, figures = self._token_rows(rows, place)
        adapter = self.config.adapter if self.config.method == "lora" else None
        job = TrainingJob(
            rows=tokens,
            storage=place.storage,
            folder=place.folder,
            model=ModelSource(self.model("model"), adapter=adapter),
            name=self.model_name,
            text=self.text,
            loop=self.config.loop.model_copy(
                update={"seed": self.settings.seed + self.config.loop.seed}
            ),
            batches=self.config.batches,
        )
        return {**run_training(job, self.config.workers, place.say), **figures}

    def _token_rows(self, rows: StoredRows, place: Workplace) -> tuple[StoredRows, dict[str, Any]]:
        """The tokens of the training and validation pairs, as a part of the stage's own."""
        pairs = self._pairs(rows)
        form, tokenizer = self.config.format, load_tokenizer(self.model("model"))
        columns = [pairs[name].to_pylist() for name in (PREMISE, HYPOTHESIS, LABEL, "reasoning")]
        lines = list(zip(*columns, strict=True))
        texts = pa.table(
            {
                "row_id": pairs["row_id"],
                "question": [form.ask(premise, other) for premise, other, _, _ in lines],
                "answer": [form.reply(label, why) for _, _, label, why in lines],
            }
        )
        tokeniser = Tokeniser(tokenizer, self.text)
        made = tokeniser(texts)
        kept = pc.equal(made["status"], KEPT)
        label_tokens = {
            label: len(tokenizer(form.word(label), add_special_tokens=False)["input_ids"])
            for label in self.stage_of(ValidatePairs).config.labels
        }
        answer_tokens = sum(sum(mask) for mask in made.filter(kept)["answer_mask"].to_pylist())
        of_labels = sum(label_tokens[label] for label in pairs.filter(kept)[LABEL].to_pylist())
        figures = {
            "label_tokens": label_tokens,
            "label_share_of_loss": of_labels / max(1, answer_tokens),
            "pairs_too_long": made.num_rows - (pc.sum(kept).as_py() or 0),
        }
        table = pa.table({**{name: made[name] for name in TOKENS[1:]}, SPLIT: pairs[SPLIT]}).filter(
            kept
        )
        part = with_envelope(table, made.filter(kept)["row_id"].to_pylist())
        path = f"{place.folder}/rows/part-tokens.parquet"
        info = write_part(
            place.storage, path, part, fingerprint="", input_digest=rows.digest, accounts=[]
        )
        return StoredRows(place.storage, (path,), info.digest), figures

    def _pairs(self, rows: StoredRows) -> pa.Table:
        """The training and validation pairs to learn from, with the reasoning of each."""
        of_labels = self.kind == "labels" and not self.config.only_with_reasoning
        names = ["row_id", *PAIR, LABEL, SPLIT]
        if of_labels:
            table = pa.concat_tables(all_pairs(self, rows).tables(names))
            table = table.append_column("reasoning", pa.nulls(table.num_rows, pa.string()))
        else:
            table = pa.concat_tables(rows.tables([*names, "reasoning", "origin"]))
            table = table.filter(pc.is_in(table["origin"], pa.array(self.config.origins)))
        train = table.filter(pc.equal(table[SPLIT], "train"))
        if not train.num_rows:
            raise UserError(
                "there are no training pairs"
                + ("" if of_labels else " with a reasoning: see what became of the thoughts")
                + ". `ray-pipeline status RUN` shows where rows were dropped"
            )
        train = train.take(pa.array(self._chosen(train["row_id"].to_pylist()), pa.int64()))
        if self.config.shuffle_reasoning:
            train = _shuffled(train, self.settings.seed)
        return pa.concat_tables([train, table.filter(pc.equal(table[SPLIT], "validation"))])

    def _chosen(self, row_ids: list[str]) -> list[int]:
        """Places of the rows to train on, in their order."""
        seed = str(self.settings.seed)
        drawn = sorted(range(len(row_ids)), key=lambda at: text_hash(["tune", seed, row_ids[at]]))
        return sorted(drawn[: self.config.rows])


def _shuffled(table: pa.Table, seed: int) -> pa.Table:
    """The table with the reasonings of each label turned by one place, in an order by hash."""
    labels, ids = table[LABEL].to_pylist(), table["row_id"].to_pylist()
    reasonings = table["reasoning"].to_pylist()
    order = sorted(range(len(ids)), key=lambda at: text_hash(["shuffle", str(seed), ids[at]]))
    moved = list(reasonings)
    for label in set(labels):
        places = [at for at in order if labels[at] == label]
        for at, other in zip(places, places[1:] + places[:1], strict=True):
            moved[at] = reasonings[other]
    column = table.schema.get_field_index("reasoning")
    return table.set_column(column, "reasoning", pa.array(moved, pa.string()))
