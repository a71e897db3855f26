"""What retrievers score before anything is trained: words, tags, static and sentence embeddings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.query_statistics import adjusted
from ray_pipeline.evaluate.ranking import METRICS
from ray_pipeline.evaluate.retrievers import (
    Bm25,
    Bm25Parameters,
    Scores,
    WordVectors,
    fused,
    tag_matches,
    top,
)
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
from ray_pipeline.stages.retrieval.embed import EmbedForRetrieval
from ray_pipeline.stages.retrieval.golden import GoldenSet, vectors_of
from ray_pipeline.stages.retrieval.measured import (
    CHOOSE_BY,
    Measured,
    chosen_by,
    gains,
    measured,
    summary,
)
from ray_pipeline.stages.retrieval.write_golden import WriteGolden

BASELINES = "retrieval/baselines.json"
REPORT = "exports/evaluation_report.md"
QUERIES = "exports/query_metrics.csv"
#: The contexts as retrievers see them; verdicts rest on the first.
VIEWS = ("text", "tagged")
BM25, STATIC, TAGS = "bm25", "word-vectors", "tag-matcher"
#: 36 settings each for BM25 and for a fusion.
_BM25_GRID = [
    Bm25Parameters(k1, b, stem, stop)
    for k1, b, stem, stop in product((0.9, 1.2, 1.8), (0.3, 0.6, 0.9), (True, False), (True, False))
]
_FUSION_GRID = list(product((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (10, 30, 60, 120)))
_WORST = 10


@dataclass
class _Retriever:
    """A retriever on one view: scores of validation and of test queries, and what was chosen."""

    validation: Scores
    test: Scores
    by_hand: Scores
    chosen: dict[str, Any]
    index_seconds: float = 0.0
    queries_per_second: float = 0.0


class MeasureRetrievers(ArtifactStage):
    """Measures all retrievers on the held-out queries: ``exports/evaluation_report.md``.

    BM25, static word vectors weighted by IDF, each embedding model of `EmbedForRetrieval`, the
    fusion of BM25 with each of them, and a plain tag matcher; each on the text alone and on tagged
    contexts. BM25 (k1, b, stemmer, stop words) and the fusions (weight, k) are tuned on the
    validation queries with 36 settings each.
    """

    name = "measure-retrievers"
    makes = (BASELINES, REPORT, QUERIES)
    uses_seed = True
    needs_stages: tuple[type[Stage], ...] = (EmbedForRetrieval, WriteGolden)

    class Config(StageConfig):
        static: bool = Field(
            True,
            description="measure static embeddings too: the word vectors of the first model, "
            "weighted by IDF",
        )

    config: Config

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The golden set's columns, and the vectors."""
        return {**self._golden.reads, **self._embed.writes}

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        """As the golden set, and the vectors of contexts and queries."""
        own = self._golden.reads_of(source)
        return {**own, **(self._embed.writes if own else {})}

    @property
    def _golden(self) -> WriteGolden:
        return self.stage_of(WriteGolden)

    @property
    def _embed(self) -> EmbedForRetrieval:
        return self.stage_of(EmbedForRetrieval)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Measure, compare with the best, and write."""
        golden = self._golden.golden(rows)
        models = list(self._embed.config.models)
        vectors = vectors_of(rows, golden, models)
        seed = self.settings.seed
        result: dict[str, Any] = {"views": {}, "contexts": len(golden.texts), "models": models}
        tests: dict[str, dict[str, Measured]] = {}
        numbers = golden.numbers("test")
        if not numbers:
            from ray_pipeline.core.errors import UserError

            raise UserError("no query is on the test side: see stages.split-families.held_out")
        for view in VIEWS:
            place.say(
                f"  retrievers on {'the text alone' if view == 'text' else 'tagged contexts'}"
            )
            found = self._retrievers(golden, vectors, view)
            validation = {name: _validated(golden, one.validation) for name, one in found.items()}
            tests[view] = {
                name: measured(golden, numbers, one.test, "test") for name, one in found.items()
            }
            by_hand = golden.numbers("test", by_hand=True)
            lines = {}
            for name, one in found.items():
                lines[name] = {
                    **summary(golden, tests[view][name], seed),
                    "validation": validation[name],
                    "chosen": one.chosen,
                    "index_seconds": one.index_seconds,
                    "queries_per_second": one.queries_per_second,
                }
                if by_hand:
                    hand = measured(golden, by_hand, one.by_hand, "test")
                    lines[name]["by_hand"] = summary(golden, hand, seed)
            best = max(lines, key=lambda name: lines[name]["metrics"][CHOOSE_BY]["mean"])
            against = {
                name: gains(golden, one, tests[view][best], seed)
                for name, one in tests[view].items()
                if name != best
            }
            p = {m: adjusted({n: g[m] for n, g in against.items() if m in g}) for m in METRICS}
            result["views"][view] = {
                "retrievers": lines,
                "best": best,
                "against_best": {
                    name: {
                        m: gain.to_json() | {"p_adjusted": p[m][name]} for m, gain in own.items()
                    }
                    for name, own in against.items()
                },
            }
        result["base"] = max(
            models, key=lambda m: result["views"]["text"]["retrievers"][m]["validation"] or 0.0
        )
        result["worst"] = _worst(golden, tests["text"][result["base"]], vectors[result["base"]])
        place.storage.write_bytes(BASELINES, orjson.dumps(result))
        place.storage.write_bytes(REPORT, _report(result, golden).encode())
        _write_queries(place.storage, golden, tests["text"])
        text = result["views"]["text"]["retrievers"]
        return {
            "base": result["base"],
            "best on the text alone": result["views"]["text"]["best"],
            "test_queries": len(numbers),
            "text": {
                n: {m: v["mean"] for m, v in one["metrics"].items()} for n, one in text.items()
            },
        }

    def _retrievers(
        self, golden: GoldenSet, vectors: Mapping[str, Mapping[str, Any]], view: str
    ) -> dict[str, _Retriever]:
        texts = golden.view(view)
        sides = _Sides(golden)
        found = {BM25: _tuned_bm25(golden, sides, texts)}
        if self.config.static:
            model = next(iter(self._embed.models.values()))
            found[STATIC] = _static(self.settings.models[model], sides, texts)
        for name, one in vectors.items():
            found[name] = _dense(sides, one["queries"], one[view])
        for name in vectors:
            found[f"{BM25}+{name}"] = _tuned_fusion(golden, sides, found[BM25], found[name])
        found[TAGS] = sides.retriever(lambda queries: tag_matches(queries, golden.tags))
        return found


class _Sides:
    """The validation queries, the test queries, and those written by hand."""

    def __init__(self, golden: GoldenSet) -> None:
        self.numbers = (
            golden.numbers("validation"),
            golden.numbers("test"),
            golden.numbers("test", by_hand=True),
        )
        self.texts = [[golden.queries[n].text for n in numbers] for numbers in self.numbers]

    def retriever(
        self, scores: Callable[[Sequence[str]], Scores], chosen: dict[str, Any] | None = None
    ) -> _Retriever:
        """A retriever from a function that scores queries, timed on the test queries."""
        validation, by_hand = scores(self.texts[0]), scores(self.texts[2])
        start = time.perf_counter()
        test = scores(self.texts[1])
        top(test, 10)
        seconds = time.perf_counter() - start
        rate = len(self.texts[1]) / max(seconds, 1e-9)
        return _Retriever(validation, test, by_hand, chosen or {}, queries_per_second=rate)


def _tuned_bm25(golden: GoldenSet, sides: _Sides, texts: Sequence[str]) -> _Retriever:
    def quality(parameters: Bm25Parameters) -> float:
        if not sides.numbers[0]:
            return 0.0
        scores = Bm25(texts, parameters).scores(sides.texts[0])
        return chosen_by(golden, sides.numbers[0], scores, "validation")

    best = max(_BM25_GRID, key=quality) if sides.numbers[0] else Bm25Parameters()
    start = time.perf_counter()
    index = Bm25(texts, best)
    seconds = time.perf_counter() - start
    made = sides.retriever(index.scores, asdict(best))
    made.index_seconds = seconds
    return made


def _static(model: str, sides: _Sides, texts: Sequence[str]) -> _Retriever:
    start = time.perf_counter()
    words = WordVectors(model, texts)
    contexts = words.encode(texts)
    seconds = time.perf_counter() - start
    made = sides.retriever(lambda queries: words.encode(queries) @ contexts.T)
    made.index_seconds = seconds
    return made


def _dense(sides: _Sides, queries: Any, contexts: Any) -> _Retriever:
    parts = [queries[numbers] for numbers in sides.numbers]
    start = time.perf_counter()
    test = parts[1] @ contexts.T
    top(test, 10)
    rate = len(parts[1]) / max(time.perf_counter() - start, 1e-9)
    return _Retriever(
        parts[0] @ contexts.T, test, parts[2] @ contexts.T, {}, queries_per_second=rate
    )


def _tuned_fusion(
    golden: GoldenSet, sides: _Sides, words: _Retriever, dense: _Retriever
) -> _Retriever:
    def quality(setting: tuple[float, int]) -> float:
        scores = _fused(words.validation, dense.validation, setting)
        return chosen_by(golden, sides.numbers[0], scores, "validation")

    setting = max(_FUSION_GRID, key=quality) if sides.numbers[0] else (0.5, 60)
    start = time.perf_counter()
    test = _fused(words.test, dense.test, setting)
    spent = time.perf_counter() - start
    number = len(sides.numbers[1])
    both = number / words.queries_per_second + number / dense.queries_per_second + spent
    return _Retriever(
        _fused(words.validation, dense.validation, setting),
        test,
        _fused(words.by_hand, dense.by_hand, setting),
        {"weight_of_bm25": setting[0], "k": setting[1]},
        words.index_seconds,
        number / both,
    )


def _fused(words: Scores, dense: Scores, setting: tuple[float, int]) -> Scores:
    weight, k = setting
    return fused([words, dense], [weight, 1 - weight], k)


def _validated(golden: GoldenSet, scores: Scores) -> float | None:
    numbers = golden.numbers("validation")
    return chosen_by(golden, numbers, scores, "validation") if numbers else None


def _worst(golden: GoldenSet, one: Measured, vectors: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The queries with the lowest NDCG@10 of the base model, with what it finds first."""
    order = np.argsort(one.values[CHOOSE_BY], kind="stable")[:_WORST]
    lines = []
    for place in order.tolist():
        number = one.numbers[place]
        query, judged = golden.queries[number], golden.judged[number]
        first = int(np.argmax(vectors["text"] @ vectors["queries"][number]))
        lines.append(
            {
                "query": query.text,
                "kind": query.kind,
                "family": query.family,
                CHOOSE_BY: float(one.values[CHOOSE_BY][place]),
                "found": golden.texts[first],
                "wanted": golden.texts[int(judged.relevant[0])],
            }
        )
    return lines


def _write_queries(storage: Storage, golden: GoldenSet, tests: Mapping[str, Measured]) -> None:
    """The metrics of every test query by every retriever, on the text alone."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query", "kind", "family", "new", "retriever", *METRICS))
    for name, one in tests.items():
        for place, number in enumerate(one.numbers):
            query = golden.queries[number]
            cells = [one.values[metric][place] for metric in METRICS]
            writer.writerow(
                (query.text, query.kind, query.family, query.new, name)
                + tuple("" if np.isnan(cell) else f"{cell:.4f}" for cell in cells)
            )
    storage.write_bytes(QUERIES, text.getvalue().encode())


def _report(result: Mapping[str, Any], golden: GoldenSet) -> str:
    """The evaluation as a page of Markdown."""
    lines = [
        "# Evaluation of retrievers before training\n",
        f"{len(golden.numbers('test'))} test queries, ranked against all {result['contexts']} "
        "contexts; those that were trained on are distractors. 95 % bootstrap intervals over "
        "families of queries. Ties count against the retriever.\n",
    ]
    for view, title in zip(VIEWS, ("On the text alone", "With the tags"), strict=True):
        own = result["views"][view]
        lines += [f"## {title}\n", "| retriever | " + " | ".join(METRICS) + " |"]
        lines.append("| --- |" + " --- |" * len(METRICS))
        for name, one in own["retrievers"].items():
            cells = [cell(one["metrics"].get(metric)) for metric in METRICS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    lines.append(
        "Precision@5 is of queries with at least 5 relevant contexts. The tag matcher reads the "
        "tags in both tables: the tags spell the labels, so figures on tagged contexts show little "
        "else.\n"
    )
    return "\n".join(lines)


def cell(value: Mapping[str, Any] | None) -> str:
    """A mean with its interval, as text."""
    if value is None:
        return "–"
    ends = "" if value["low"] is None else f" ({value['low']:.3f}–{value['high']:.3f})"
    return f"{value['mean']:.3f}{ends}"
