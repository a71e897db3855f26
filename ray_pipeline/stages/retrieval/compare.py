"""Before and after fine-tuning, on the same held-out queries; and what was forgotten."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.query_statistics import Gain, adjusted, gain_of, mean_of
from ray_pipeline.evaluate.ranking import METRICS, Judged, table
from ray_pipeline.models.embedder import Embedder, Vectors
from ray_pipeline.rundir.layout import SOURCE_NAME
from ray_pipeline.rundir.models import get_model
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
from ray_pipeline.stages.retrieval.baselines import VIEWS, cell
from ray_pipeline.stages.retrieval.embed import EmbeddingModel, EmbedForRetrieval, embedder_of
from ray_pipeline.stages.retrieval.golden import GoldenSet
from ray_pipeline.stages.retrieval.measured import Measured, gains, measured, summary
from ray_pipeline.stages.retrieval.tune import SHUFFLED, TUNED, TuneRetriever
from ray_pipeline.stages.retrieval.write_golden import WriteGolden

COMPARISON = "retrieval/comparison.json"
REPORT = "exports/comparison.md"
DIFFERENCES = "exports/query_differences.csv"
#: The metrics of the verdict: those that the original experiment reports.
VERDICT = ("mrr@10", "precision@1", "ndcg@5")
#: The source with rows that have nothing to do with prompts, and its columns.
UNRELATED, QUESTION, ANSWER = "unrelated", "question", "answer"
BASE = "before"
#: Chance of calling a difference real that is none, over all metrics of a verdict.
_ALPHA = 0.05
_SHOWN = 10


@dataclass(frozen=True)
class _Unrelated:
    """Questions, and answers that are all ranked for each of them."""

    questions: list[str]
    answers: list[str]
    judged: list[Judged]


class CompareRetrievers(ArtifactStage):
    """Compares the base model with the fine-tuned ones: ``exports/comparison.md``.

    All rank the test queries over the same corpus, on the text alone and with tags; queries written
    by hand have a table of their own. Differences are paired by query. The verdict rests on the
    text alone. With a source ``unrelated`` (columns ``question`` and ``answer``) it measures what
    was forgotten: answers found for questions that have nothing to do with prompts.
    """

    name = "compare-retrievers"
    makes = (COMPARISON, REPORT, DIFFERENCES)
    uses_seed = True
    needs_stages: tuple[type[Stage], ...] = (EmbedForRetrieval, WriteGolden, TuneRetriever)

    class Config(StageConfig):
        unrelated_rows: int = Field(
            1_000, ge=2, description="rows of the source `unrelated` that are measured at most"
        )
        batch_size: Annotated[int, Execution] = Field(
            64, ge=1, description="texts per forward pass"
        )

    config: Config

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The golden set's columns."""
        return self.stage_of(WriteGolden).reads

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        """As the golden set; question and answer of unrelated rows."""
        if source == UNRELATED:
            return dict.fromkeys((QUESTION, ANSWER), pa.string())
        return self.stage_of(WriteGolden).reads_of(source)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Embed by all models, measure, compare, and write."""
        golden = self.stage_of(WriteGolden).golden(rows)
        unrelated = _unrelated(rows, self.config.unrelated_rows)
        trained = orjson.loads(place.storage.read_bytes(TUNED) or b"{}")
        embed = self.stage_of(EmbedForRetrieval)
        model = embed.config.models[trained["base"]]
        folders = {BASE: embed.model(f"models.{trained['base']}.model")}
        folders |= {name: get_model(place.storage, name) for name in trained["models"]}
        found = {}
        for name, folder in folders.items():
            place.say(f"  {name}: ranking the test queries")
            found[name] = self._measure(folder, model, golden, unrelated)
        result = self._compared(golden, found, trained, unrelated)
        place.storage.write_bytes(COMPARISON, orjson.dumps(result))
        place.storage.write_bytes(REPORT, _report(result).encode())
        _write_differences(place.storage, golden, {n: one["text"] for n, one in found.items()})
        return {
            "base": trained["base"],
            "verdict": result["verdict"],
            "improved": result["improved"],
            "text": {
                name: {m: v["mean"] for m, v in one["text"]["metrics"].items()}
                for name, one in result["models"].items()
            },
        }

    def _measure(
        self,
        folder: str,
        model: EmbeddingModel,
        golden: GoldenSet,
        unrelated: _Unrelated | None,
    ) -> dict[str, Any]:
        """What a model scores: by ``text``, ``tagged``, ``by_hand``, ``unrelated``."""
        embedder = embedder_of(folder, model, self.config.batch_size, _device())
        numbers = golden.numbers("test")
        by_hand = golden.numbers("test", by_hand=True)
        asked = _encoded(embedder, model.query_prefix, [q.text for q in golden.queries])
        found: dict[str, Any] = {}
        for view in VIEWS:
            contexts = _encoded(embedder, model.context_prefix, golden.view(view))
            found[view] = measured(golden, numbers, asked[numbers] @ contexts.T, "test")
            if view == VIEWS[0] and by_hand:
                found["by_hand"] = measured(golden, by_hand, asked[by_hand] @ contexts.T, "test")
            if view == VIEWS[0]:
                sizes = self.stage_of(TuneRetriever).config.tuning.loss.matryoshka
                found["cut"] = {
                    size: measured(golden, numbers, _cut(asked[numbers], contexts, size), "test")
                    for size in sizes
                    if size < contexts.shape[1]
                }
        if unrelated is not None:
            questions = _encoded(embedder, model.query_prefix, unrelated.questions)
            answers = _encoded(embedder, model.context_prefix, unrelated.answers)
            found["unrelated"] = table(questions @ answers.T, unrelated.judged)
        return found

    def _compared(
        self,
        golden: GoldenSet,
        found: Mapping[str, Mapping[str, Any]],
        trained: Mapping[str, Any],
        unrelated: _Unrelated | None,
    ) -> dict[str, Any]:
        seed = self.settings.seed
        parts = [part for part in (*VIEWS, "by_hand") if part in found[BASE]]
        tuned = [n for n in found if n != BASE and not n.endswith(SHUFFLED)]
        models: dict[str, Any] = {}
        for name, one in found.items():
            models[name] = {part: summary(golden, one[part], seed) for part in parts}
            models[name]["cut"] = {
                str(size): summary(golden, part, seed)["metrics"]
                for size, part in one["cut"].items()
            }
            if unrelated is not None:
                models[name]["unrelated"] = _of_unrelated(one["unrelated"], seed)
            if name != BASE:
                for part in parts:
                    models[name][part]["gains"] = _gains(golden, one[part], found[BASE][part], seed)
                if unrelated is not None:
                    models[name]["unrelated_gains"] = _unrelated_gains(
                        one["unrelated"], found[BASE]["unrelated"], seed
                    )
        control = next((name for name in found if name.endswith(SHUFFLED)), None)
        against = {}
        if control is not None:
            twin = control.removesuffix(SHUFFLED)
            against = _gains(golden, found[twin]["text"], found[control]["text"], seed)
        improved = {
            part: {m: all(_is_gain(models[n][part]["gains"][m]) for n in tuned) for m in VERDICT}
            for part in parts
        }
        return {
            "base": trained["base"],
            "training": trained["models"],
            "models": models,
            "against_control": against,
            "improved": improved,
            "verdict": _verdict(improved, len(tuned)),
            "unrelated": None if unrelated is None else len(unrelated.questions),
            "examples": _examples(golden, found[BASE]["text"], found[tuned[0]]["text"]),
            "tuned": tuned,
        }


def _device() -> str:
    from ray_pipeline.models.device import device

    return device(None)


def _encoded(embedder: Embedder, prefix: str, texts: Sequence[str]) -> Vectors:
    return embedder.encode([prefix + text for text in texts])


def _cut(queries: Vectors, contexts: Vectors, size: int) -> Any:
    """Cosines of the first dimensions."""
    parts = [vectors[:, :size] for vectors in (queries, contexts)]
    one, two = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts)
    return one @ two.T


def _gains(golden: GoldenSet, ours: Measured, others: Measured, seed: int) -> dict[str, Any]:
    """Gains by metric; those of the verdict with p by Holm's correction. And by kind of query."""
    found = gains(golden, ours, others, seed)
    p = adjusted({name: found[name] for name in VERDICT})
    lines: dict[str, Any] = {
        name: gain.to_json() | {"p_adjusted": p.get(name)} for name, gain in found.items()
    }
    for group in ("kind", "new"):
        of = np.array([getattr(golden.queries[n], group) for n in ours.numbers], object)
        lines[f"by_{group}"] = {
            value: _group_gain(golden, ours, others, of == value, seed) for value in sorted(set(of))
        }
    return lines


def _group_gain(
    golden: GoldenSet, ours: Measured, others: Measured, chosen: Any, seed: int
) -> dict[str, Any]:
    numbers = np.array(ours.numbers)[chosen].tolist()
    families = [golden.queries[number].family for number in numbers]
    found = {
        name: gain_of(name, ours.values[name][chosen], others.values[name][chosen], families, seed)
        for name in VERDICT
    }
    return {name: gain.to_json() for name, gain in found.items() if gain is not None}


def _is_gain(gain: Mapping[str, Any]) -> bool:
    """Whether the interval is above 0 and the corrected p small."""
    return gain["low"] is not None and gain["low"] > 0 and gain["p_adjusted"] < _ALPHA


def _verdict(improved: Mapping[str, Mapping[str, bool]], seeds: int) -> str:
    def listed(part: str, wanted: bool) -> str:
        return ", ".join(name for name, is_up in improved[part].items() if is_up == wanted)

    on = f"on {'all ' if seeds > 1 else ''}{seeds} seed{'s' if seeds > 1 else ''}"
    up, not_up = listed("text", True), listed("text", False)
    sentences = [
        f"On the text alone, fine-tuning improved {up} {on}." if up else
        f"On the text alone, fine-tuning improved nothing {on} by more than chance."
    ]  # fmt: skip
    if up and not_up:
        sentences.append(f"It did not improve {not_up}.")
    if "by_hand" in improved:
        up, not_up = listed("by_hand", True), listed("by_hand", False)
        found = f"improved {up}" if up else "improved nothing by more than chance"
        rest = f", not {not_up}." if up and not_up else "."
        sentences.append(f"On the queries written by hand it {found}{rest}")
    return " ".join(sentences)


def _examples(golden: GoldenSet, before: Measured, after: Measured) -> dict[str, Any]:
    """The queries that won and lost most in NDCG@10."""
    lead = after.values["ndcg@10"] - before.values["ndcg@10"]
    order = np.argsort(lead, kind="stable")

    def lines(places: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {
                "query": golden.queries[after.numbers[place]].text,
                "kind": golden.queries[after.numbers[place]].kind,
                "before": float(before.values["ndcg@10"][place]),
                "after": float(after.values["ndcg@10"][place]),
            }
            for place in places
        ]

    return {
        "won": lines([p for p in order[::-1][:_SHOWN].tolist() if lead[p] > 0]),
        "lost": lines([p for p in order[:_SHOWN].tolist() if lead[p] < 0]),
    }


def _unrelated(rows: StoredRows, most: int) -> _Unrelated | None:
    """The questions and answers of the source `unrelated`; None where the run has none."""
    if not {QUESTION, ANSWER} <= set(rows.columns):
        return None
    found = pa.concat_tables(rows.tables(["row_id", SOURCE_NAME, QUESTION, ANSWER]))
    found = found.filter(pc.equal(found[SOURCE_NAME], UNRELATED)).sort_by("row_id")
    pairs = [
        (question, answer)
        for question, answer in zip(
            found[QUESTION].to_pylist(), found[ANSWER].to_pylist(), strict=True
        )
        if question and answer
    ][:most]
    if len(pairs) < 2:
        return None
    answers = {text: place for place, text in enumerate(dict.fromkeys(a for _, a in pairs))}
    # Rows with one question share what is relevant to it.
    relevant: dict[str, dict[int, float]] = {}
    for question, answer in pairs:
        relevant.setdefault(question, {})[answers[answer]] = 1.0
    judged = [Judged.of(grades) for grades in relevant.values()]
    return _Unrelated(list(relevant), list(answers), judged)


def _of_unrelated(values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    questions = [str(number) for number in range(len(values["mrr@10"]))]
    return {m: mean_of(values[m], questions, seed).to_json() for m in (*VERDICT, "recall@10")}


def _unrelated_gains(
    ours: Mapping[str, Any], others: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    questions = [str(number) for number in range(len(ours["mrr@10"]))]
    found: dict[str, Gain | None] = {
        m: gain_of(m, ours[m], others[m], questions, seed) for m in (*VERDICT, "recall@10")
    }
    return {name: gain.to_json() for name, gain in found.items() if gain is not None}


def _write_differences(storage: Storage, golden: GoldenSet, tests: Mapping[str, Measured]) -> None:
    """The NDCG@10 of every test query by every model, on the text alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query", "kind", "family", "new", *tests))
    for place, number in enumerate(tests[BASE].numbers):
        query = golden.queries[number]
        cells = [f"{one.values['ndcg@10'][place]:.4f}" for one in tests.values()]
        writer.writerow((query.text, query.kind, query.family, query.new, *cells))
    storage.write_bytes(DIFFERENCES, text.getvalue().encode())


_TITLES = {
    "text": "On the text alone",
    "tagged": "With the tags",
    "by_hand": "Queries written by hand, on the text alone",
}


def _report(result: Mapping[str, Any]) -> str:
    """The comparison as a page of Markdown."""
    lines = ["# Before and after fine-tuning\n", f"{result['verdict']}\n"]
    for part, title in _TITLES.items():
        if part not in result["models"][BASE]:
            continue
        lines += [f"## {title}\n", "| model | " + " | ".join(METRICS) + " |"]
        lines.append("| --- |" + " --- |" * len(METRICS))
        for name, one in result["models"].items():
            cells = [cell(one[part]["metrics"].get(metric)) for metric in METRICS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += ["", "| gain over before | " + " | ".join(VERDICT) + " | won / lost |"]
        lines.append("| --- |" + " --- |" * (len(VERDICT) + 1))
        for name, one in result["models"].items():
            if name != BASE:
                own = one[part]["gains"]
                cells = [f"{cell(own[m])}, p {own[m]['p_adjusted']:.3f}" for m in VERDICT]
                cells.append(f"{own['mrr@10']['won']} / {own['mrr@10']['lost']}")
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    if result["unrelated"]:
        lines += [
            "## What was forgotten\n",
            f"{result['unrelated']} unrelated questions, each with",
        ]
        lines[-1] += " all their answers ranked.\n"
        lines += ["| model | mrr@10 | change |", "| --- | --- | --- |"]
        for name, one in result["models"].items():
            change = cell(one["unrelated_gains"]["mrr@10"]) if name != BASE else "–"
            lines.append(f"| {name} | {cell(one['unrelated']['mrr@10'])} | {change} |")
        lines.append("")
    lines += [
        "## The original experiment\n",
        "On a test set of its own, which is not published: precision@1 .667 → .898, MRR .714 → "
        ".931, NDCG@5 .569 → .933. Its contexts carry the tags, which spell the labels.\n",
        "Intervals: 95 % bootstrap over families of queries; differences are paired by query, p by "
        "a permutation test with Holm's correction over the three metrics of a model. An interval "
        "covers the choice of queries, not that of a training's seed.\n",
    ]
    return "\n".join(lines)
