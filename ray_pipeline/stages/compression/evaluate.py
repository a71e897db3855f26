"""What shorter prompts cost: measured on the test rows, beside simpler ways to shorten them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.spreadsheets import without_formulas
from ray_pipeline.evaluate.clusters import ClusteredMean, clustered_mean
from ray_pipeline.evaluate.compression import length_bins, lengths, lengths_by_bin, rouge
from ray_pipeline.evaluate.statistics import holm
from ray_pipeline.models.device import check_gpu, device
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.rundir.models import get_model, model_names
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, StageConfig, Workplace
from ray_pipeline.stages.compression import systems as ways
from ray_pipeline.stages.compression.baselines import ScoreWords
from ray_pipeline.stages.compression.break_even import Prices, break_even
from ray_pipeline.stages.compression.checks import fault
from ray_pipeline.stages.compression.compress import CompressPrompts
from ray_pipeline.stages.compression.downstream import (
    AnswerLosses,
    Reference,
    agreement,
    reference,
)
from ray_pipeline.stages.compression.measure import AfterMeasuring
from ray_pipeline.stages.compression.systems import Baselines, System
from ray_pipeline.stages.compression.train import COMPRESSOR
from ray_pipeline.stages.compression.trained import TrainedCompressor, load_compressor
from ray_pipeline.stages.training.missing_rows import require_rows
from ray_pipeline.stages.training.split import SplitStage

#: The file of all texts and losses, relative to the run directory.
RESULTS = "exports/compression_evaluation.csv"
#: Systems that baselines are matched to.
OURS = (ways.GENERATED, ways.TRAINED)


@dataclass(frozen=True)
class MeasuredPrompts:
    """The rows that are measured."""

    row_ids: list[str]
    prompts: list[str]
    compressed: list[str]
    references: list[Reference]
    families: list[str]
    surprise: list[list[float]] | None
    #: Test rows that are not measured, by why.
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.prompts)


class EvaluateCompressions(AfterMeasuring, ArtifactStage):
    """Measures the test rows' compressions, and the run's trained model, beside baselines.

    - **Length**: ratios by the payer's tokenizer, and texts longer than their prompt.
    - **Meaning kept**: cosine similarity of the embeddings of prompt and shorter prompt.
    - **Loss**: nats per token that the reference answer costs a model more after the shorter
      prompt than after the prompt. Floors: no prompt, and another row's prompt.
    - **Agreement**: ROUGE-L of answers sampled after the shorter prompt with those after the
      prompt. Ceiling: the same prompt sampled twice; floor: another row's prompt.

    Baselines are matched row by row to the tokens of what they are compared with. Intervals count
    families of rows. The differences to baselines are corrected for their number (Holm).
    """

    name = "evaluate-compressions"
    makes = (RESULTS,)
    needs_test_rows = True
    uses_seed = True
    uses_embedder = True

    class Config(StageConfig):
        model: str | None = Field(
            None,
            description="causal language model whose loss and answers are measured; null: the "
            "stage is off",
        )
        rows: int = Field(200, ge=1, description="maximum number of test rows that are measured")
        rates: tuple[float, ...] = Field(
            (0.8, 0.6), description="ratios of the curve at which ways to shorten are compared"
        )
        draws: int = Field(5, ge=1, description="number of draws of words deleted at random")
        answer_words: int = Field(
            100, ge=1, description="words of a reference answer that are scored, at most"
        )
        cut_characters: int = Field(
            530,
            ge=1,
            description="a response of at least this length that ends without a mark is taken for "
            "cut, and its end is not scored",
        )
        agreement_rows: int = Field(
            50, ge=0, description="number of rows whose answers are compared; 0: none"
        )
        agreement_tokens: int = Field(
            48, ge=1, description="maximum number of tokens of an answer that is compared"
        )
        temperature: float = Field(0.7, gt=0, description="temperature of these answers")
        prices: Prices | None = Field(
            None, description="prices of the model whose prompts are shortened; null: no dollars"
        )
        compressor_prices: Prices | None = Field(
            None, description="prices of the model that shortens; null: as `prices`"
        )
        batch_tokens: Annotated[int, Execution] = Field(
            4096, ge=1, description="tokens per forward pass, padding included"
        )
        batch_rows: int = Field(
            32, ge=1, description="rows answered per batch; sampled answers depend on it"
        )
        gpu: Annotated[bool | None, Execution] = Field(
            None, description="run the model on a GPU; null: if this machine has one"
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.model is None

    @property
    def models(self) -> Mapping[str, str]:
        """The payer's tokenizer, and the model that is measured."""
        judge = {} if self.config.model is None else {"model": self.config.model}
        return {**super().models, **judge}

    reads = {
        "prompt": pa.string(),
        "response": pa.string(),
        "compressed_prompt": pa.string(),
        SPLIT: pa.string(),
    }

    def check(self) -> None:
        """Check that there is a test split, and a GPU if one is required."""
        split = self.find_stage(SplitStage)
        if split is not None and split.config.test == 0:
            raise UserError(f"stages.{split.name}.test is 0, so no row is kept aside: set it")
        if any(not 0 < rate <= 1 for rate in self.config.rates):
            raise UserError(f"rates: {list(self.config.rates)}; a rate is above 0, at most 1")
        check_gpu(self.config.gpu)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Make the texts of all systems, measure them, and write the file of all of them."""
        require_rows(self, rows, test="to evaluate on")
        test = self._test_rows(rows)
        made = self._systems(test, place)
        losses = AnswerLosses(self._scorer, test.references, place.storage, f"{place.folder}/nats")
        losses.add([(row, text) for one in made for draw in one.draws
                    for row, text in enumerate(draw)], place.say)  # fmt: skip
        similar = self._similarity(made, test)
        agreed = self._agreement(made, test)
        figures = [
            self._figures(one, test, losses, similar, agreed.get((one.name, one.matched)))
            for one in made
        ]
        comparisons = self._comparisons(made, test, losses)
        self._write(made, test, losses, place)
        for line in _lines(figures, comparisons):
            place.say(f"  {line}")
        return {
            "rows": len(test),
            "families": len(set(test.families)),
            "left_out": dict(test.left_out),
            "judge": self.config.model,
            "chooser": _model_of(self.find_stage(ScoreWords)),
            "compressor": self._llm(),
            "tokenizer": self.tokenizer,
            "prompt_bins": length_bins([self.count(text) for text in test.prompts]),
            "compressed_bins": length_bins([self.count(text) for text in test.compressed]),
            "systems": figures,
            "comparisons": comparisons,
            "answers_compared": min(self.config.agreement_rows, len(test)),
            "agreement_tokens": self.config.agreement_tokens,
            "ceiling": _json(agreed.get(("ceiling", ""))),
            "break_even": self._break_even(test),
        }

    def _test_rows(self, rows: StoredRows) -> MeasuredPrompts:
        names = [*self.reads, "row_id", "parent_id"]
        extra = [name for name in ("split_group", "word_surprise") if name in rows.columns]
        table = rows.mapped([*dict.fromkeys([*names, *extra])], **{SPLIT: "test"})
        config, left_out = self.config, {"about a passage": 0, "no response": 0}
        chosen: list[dict[str, Any]] = []
        order = np.argsort(table["row_id"].to_numpy())  # hashes, so no part of the source alone
        content = table.select([n for n in table.column_names if n != SPLIT]).to_pylist()
        for number in order:
            row = content[number]
            if ways.cited_passage(row["prompt"]):
                left_out["about a passage"] += 1
            elif not (row["response"] or "").strip():
                left_out["no response"] += 1
            elif len(chosen) < config.rows:
                chosen.append(row)
            else:
                left_out["beyond `rows`"] = left_out.get("beyond `rows`", 0) + 1
        if not chosen:
            raise UserError(f"no test row can be measured: {left_out}")
        scores = [row["word_surprise"] for row in chosen if row.get("word_surprise") is not None]
        return MeasuredPrompts(
            [row["row_id"] for row in chosen],
            [row["prompt"] for row in chosen],
            [row["compressed_prompt"] for row in chosen],
            [
                reference(row["response"], config.answer_words, config.cut_characters)
                for row in chosen
            ],
            [row.get("split_group") or row["parent_id"] or row["row_id"] for row in chosen],
            scores if len(scores) == len(chosen) else None,
            left_out,
        )

    def _systems(self, test: MeasuredPrompts, place: Workplace) -> list[System]:
        seed, config = self.settings.seed, self.config
        baselines = Baselines(
            test.prompts, self.count, test.surprise, self.patterns, config.draws, seed
        )
        made = [*ways.floors(test.prompts, test.families, seed), *baselines.by_rule()]
        trained = self._trained(place)
        ours = [System(ways.GENERATED, "", [test.compressed])]
        if trained is not None:
            ours.append(System(ways.TRAINED, "", [self._sent(trained, test.prompts)]))
        for system in ours:
            made.append(system)
            most = [self.count(text) for text in system.texts]
            made += baselines.matched(most, system.name)
        for rate in config.rates:
            most, to = baselines.limits(rate), f"rate {rate:g}"
            made += baselines.matched(most, to)
            if trained is not None and trained.method.form == "keep_or_drop":
                texts = trained.at_lengths(test.prompts, most, self.count)
                made.append(System(ways.TRAINED, to, [texts]))
        return made

    def _trained(self, place: Workplace) -> TrainedCompressor | None:
        if COMPRESSOR not in model_names(place.storage):
            return None
        folder = get_model(place.storage, COMPRESSOR)
        return load_compressor(folder, device(self.config.gpu), self.patterns)

    def _sent(self, trained: TrainedCompressor, prompts: Sequence[str]) -> list[str]:
        """What is sent: the model's text, and the prompt itself where a check finds a fault."""
        writes = trained.method.form != "keep_or_drop"
        return [
            prompt if one.is_cut or self._is_wrong(prompt, one.text, writes) else one.text
            for prompt, one in zip(prompts, trained(prompts), strict=True)
        ]

    def _is_wrong(self, prompt: str, text: str, by_model: bool) -> bool:
        found = fault(prompt, text, self.count, patterns=self.patterns, by_model=by_model)
        return found is not None

    def _scorer(self) -> Any:
        from ray_pipeline.evaluate.log_probs import TextScorer

        config = self.config
        return TextScorer.load(self.model("model"), device(config.gpu), config.batch_tokens)

    def _similarity(
        self, made: Sequence[System], test: MeasuredPrompts
    ) -> dict[tuple[str, str], float]:
        """The cosine of a row's prompt and each text that takes its place."""
        from ray_pipeline.models.embedder import Embedder

        texts = sorted({text for one in made for text in one.texts} | set(test.prompts))
        vectors = Embedder(self.settings.embedder).encode(texts)
        of_text = dict(zip(texts, vectors, strict=True))
        pairs = {(prompt, text) for one in made
                 for prompt, text in zip(test.prompts, one.texts, strict=True)}  # fmt: skip
        return {(a, b): float(of_text[a] @ of_text[b]) for a, b in pairs}

    def _agreement(
        self, made: Sequence[System], test: MeasuredPrompts
    ) -> dict[tuple[str, str], ClusteredMean | None]:
        """Agreement with the answers to the prompts; ``ceiling``: the prompts sampled again."""
        number = min(self.config.agreement_rows, len(test))
        if number == 0:
            return {}
        from ray_pipeline.evaluate.generation import TextGenerator
        from ray_pipeline.models.decoding import Decoding, trained_format
        from ray_pipeline.models.tokenizer import load_tokenizer
        from ray_pipeline.train.student import load

        config, folder = self.config, self.model("model")
        tokenizer = load_tokenizer(folder)
        model = load(folder).to(device(config.gpu))
        generate = TextGenerator(model, tokenizer, trained_format(folder, tokenizer))

        def answers(texts: Sequence[str], sample: int) -> list[str]:
            decoding = Decoding(
                config.agreement_tokens, config.temperature, self.settings.seed + sample
            )
            # A model's format needs a question: the floor without a prompt is one of the losses.
            return [one.text for one in generate(texts, decoding, config.batch_rows)]

        families = test.families[:number]
        first = answers(test.prompts[:number], 0)

        def of(texts: Sequence[str]) -> ClusteredMean | None:
            found = agreement(answers(texts[:number], 1), first)
            known = [(value, f) for value, f in zip(found, families, strict=True)
                     if value is not None]  # fmt: skip
            return clustered_mean([value for value, _ in known], [f for _, f in known])

        compared = [
            one
            for one in made
            if one.name == ways.OTHER or (one.name in OURS and not one.matched)
            or one.matched in OURS
        ]  # fmt: skip
        return {
            ("ceiling", ""): of(test.prompts),
            **{(one.name, one.matched): of(one.texts) for one in compared},
        }

    def _added(
        self, texts: Sequence[Sequence[str]], test: MeasuredPrompts, losses: AnswerLosses
    ) -> list[float]:
        """Nats that each row's reference answer costs more than after its prompt, mean of draws."""
        rows = range(len(test))
        return [
            float(np.mean([losses.nats(row, draw[row]) for draw in texts]))
            - losses.nats(row, test.prompts[row])
            for row in rows
        ]

    def _figures(
        self,
        system: System,
        test: MeasuredPrompts,
        losses: AnswerLosses,
        similar: Mapping[tuple[str, str], float],
        agreed: ClusteredMean | None,
    ) -> dict[str, Any]:
        before = [self.count(text) for text in test.prompts] * len(system.draws)
        after = [self.count(text) for draw in system.draws for text in draw]
        tokens = [losses.tokens(row, test.prompts[row]) for row in range(len(test))]
        cosines = [similar[pair] for pair in zip(test.prompts, system.texts, strict=True)]
        usable = [(c, f) for c, f in zip(cosines, test.families, strict=True) if np.isfinite(c)]
        meaning = clustered_mean([c for c, _ in usable], [f for _, f in usable])
        added = clustered_mean(self._added(system.draws, test, losses), test.families, tokens)
        ours = system.name in OURS and not system.matched
        bins = lengths_by_bin(before, after) if ours else {}
        return {
            "name": system.name,
            "matched": system.matched,
            "draws": len(system.draws),
            **lengths(before, after).to_json(),
            "by_bin": {name: one.to_json() for name, one in bins.items()},
            "rouge": rouge(system.texts, test.prompts).to_json(),
            "rouge_of_compression": rouge(system.texts, test.compressed).to_json(),
            "similarity": _json(meaning),
            "added_nats": _json(added),
            "agreement": _json(agreed),
        }

    def _comparisons(
        self, made: Sequence[System], test: MeasuredPrompts, losses: AnswerLosses
    ) -> list[dict[str, Any]]:
        """Added nats of our systems minus those of the baselines at their lengths."""
        found: list[dict[str, Any]] = []
        p_values: list[float | None] = []
        tokens = [losses.tokens(row, test.prompts[row]) for row in range(len(test))]
        by_name = ways.names(made)
        for ours in OURS:
            pairs = [(one.name, one.matched) for one in made
                     if one.matched == ours and one.name in ways.BASELINES]  # fmt: skip
            for pair in pairs if (ours, "") in by_name else ():
                mine = self._added(by_name[ours, ""].draws, test, losses)
                other = self._added(by_name[pair].draws, test, losses)
                lead = clustered_mean(np.subtract(mine, other).tolist(), test.families, tokens)
                p_values.append(None if lead is None else lead.p_value())
                found.append({"system": ours, "than": pair[0], "difference": _json(lead)})
        for one, p in zip(found, holm(p_values), strict=True):
            one["p_holm"] = p
        return found

    def _llm(self) -> str | None:
        """The model that wrote the compressions; None if only rules did."""
        asking = self.find_stage(CompressPrompts)
        if asking is None or asking.is_off:
            return None
        name = str(asking.config.llm)
        return str(self.settings.llms.get(name, {}).get("model", name))

    def _break_even(self, test: MeasuredPrompts) -> dict[str, Any]:
        asking = self.find_stage(CompressPrompts)
        fixed = [0] * len(test)
        prompts = [0] * len(test)
        completions = [0] * len(test)
        if asking is not None and not asking.is_off:
            for row, text in enumerate(test.prompts):
                messages = asking.prompt.render(prompt=text)
                total = sum(self.count(message["content"]) for message in messages)
                prompts[row] = self.count(messages[-1]["content"])
                fixed[row] = total - prompts[row]
                completions[row] = self.count(test.compressed[row])
        config = self.config
        return break_even(
            before=[self.count(text) for text in test.prompts],
            after=[self.count(text) for text in test.compressed],
            repeated=fixed,
            asked=prompts,
            written=completions,
            prices=config.prices,
            compressor=config.compressor_prices or config.prices,
        )

    def _write(
        self, made: Sequence[System], test: MeasuredPrompts, losses: AnswerLosses, place: Workplace
    ) -> None:
        """Write a line for each row and system, of the first draw."""
        columns: dict[str, list[Any]] = {
            name: []
            for name in ("row_id", "system", "matched", "prompt", "text", "prompt_tokens",
                         "text_tokens", "nats", "answer_tokens")
        }  # fmt: skip
        for one in made:
            for row, text in enumerate(one.texts):
                prompt = test.prompts[row]
                values = (test.row_ids[row], one.name, one.matched, prompt, text,
                          self.count(prompt), self.count(text), losses.nats(row, text),
                          losses.tokens(row, text))  # fmt: skip
                for name, value in zip(columns, values, strict=True):
                    columns[name].append(value)
        table = pa.table(columns)
        table = without_formulas(table) if self.settings.for_spreadsheets else table
        with place.storage.writer(RESULTS) as file:
            pacsv.write_csv(table, file)


def _json(mean: ClusteredMean | None) -> dict[str, Any] | None:
    return None if mean is None else mean.estimate().to_json()


def _model_of(stage: ScoreWords | None) -> str | None:
    return None if stage is None else stage.config.model


def _lines(
    figures: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]
) -> list[str]:
    lines = [
        f"{one['name']}{' at the tokens of ' + one['matched'] if one['matched'] else ''}: ratio "
        f"{one['total_ratio']:.3f}, added nats a token {one['added_nats']['mean']:.3f}"
        for one in figures
        if one["total_ratio"] is not None and one["added_nats"] is not None
    ]
    for one in comparisons:
        lead, p = one["difference"], one["p_holm"]
        beats = lead is not None and lead["mean"] < 0 and p is not None and p < 0.05
        verdict = "beats" if beats else "does not beat"
        lines.append(f"{one['system']} {verdict} {one['than']} at the same length")
    return lines
