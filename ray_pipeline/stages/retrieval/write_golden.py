"""Writes the golden set: the pairs of the original experiment's CSV, and BEIR's three files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.spreadsheets import without_formulas
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.ranking import RELEVANT
from ray_pipeline.evaluate.retrievers import Bm25, top
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Stage, StageConfig, Workplace
from ray_pipeline.stages.retrieval.embed import EmbedForRetrieval
from ray_pipeline.stages.retrieval.golden import GoldenSet, leaks, read_golden, vectors_of
from ray_pipeline.stages.retrieval.negatives import Mined, MiningConfig, at_random, mine, pooled
from ray_pipeline.stages.retrieval.split import NEW, SIDES

PAIRS = "exports/prompt_evaluation_dataset.csv"
BEIR = "exports/beir"
#: What else is known of the pairs: sides, kinds, where a negative is from.
NEGATIVES = "exports/hard_negatives.md"
#: The hard negatives of training queries, by row ids, which the fine-tuning reads.
MINED = "retrieval/mined.json"
SUMMARY = "retrieval/golden.json"
#: Best contexts of each retriever that are pooled for the test's negatives.
_POOL = 10
#: Hard negatives on the page to read.
_SHOWN = 40
#: BEIR's relevance is a whole number: grades are multiplied by this.
BEIR_GRADES = 2


class WriteGolden(ArtifactStage):
    """Judges every query against every context, checks for leaks, and exports the golden set.

    - ``exports/prompt_evaluation_dataset.csv``: ``query,context,relevance``, as in the original
      experiment, with grades between 0.0 and 1.0.
    - ``exports/beir/``: ``queries.jsonl``, ``corpus.jsonl`` and ``qrels/SIDE.tsv``; a grade of 1 is
      2 there, 0.5 is 1.
    - ``exports/hard_negatives.md``: the mined negatives that score above their positive, to read.

    The run fails if a held-out side shares what it asks, how it asks it, or a relevant context with
    another side.
    """

    name = "write-golden"
    makes = (PAIRS, f"{BEIR}/corpus.jsonl", f"{BEIR}/queries.jsonl", NEGATIVES, MINED, SUMMARY)
    uses_seed = True
    needs_stages: tuple[type[Stage], ...] = (EmbedForRetrieval,)

    class Config(StageConfig):
        attributes: tuple[str, ...] = Field(
            ("genre", "theme", "character", "place", "conflict"),
            min_length=1,
            description="columns that queries may want; a relevant context has the same values",
        )
        partial: float = Field(
            0.5,
            gt=0,
            le=1,
            description="smallest share of the wanted values with which a context gets a grade; "
            "the grade is that share",
        )
        without_context: Literal["refuse", "leave_out"] = Field(
            "refuse", description="what happens if queries have no relevant context"
        )
        positives: int = Field(
            5, ge=1, description="graded contexts of each query in the CSV, the best first"
        )
        random_negatives: int = Field(
            2, ge=0, description="contexts of grade 0 of each query in the CSV, at random"
        )
        pooled_negatives: int = Field(
            2,
            ge=0,
            description="contexts of grade 0 of each held-out query in the CSV, from the best of "
            "all retrievers together",
        )
        mining: MiningConfig = MiningConfig()
        mine_with: str | None = Field(
            None,
            description="model of stages.embed whose ranking the hard negatives of training "
            "queries are mined from; null: the first",
        )

    config: Config

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """Contexts, queries and what relevance depends on."""
        names = ["prompt", "context", "query", "kind", "wants", SPLIT, NEW]
        return dict.fromkeys([*names, *self.config.attributes], pa.string())

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        """Which column is whose; attributes are of both."""
        own = {"queries": ("query", "kind", "wants"), "corpus": ("prompt", "context")}
        if source not in own:
            return {}
        return {
            name: self.reads[name] for name in (*own[source], SPLIT, NEW, *self.config.attributes)
        }

    def golden(self, rows: StoredRows) -> GoldenSet:
        """The golden set of the run's rows."""
        leave_out = self.config.without_context == "leave_out"
        return read_golden(rows, self.config.attributes, self.config.partial, leave_out)

    @property
    def miner(self) -> str:
        """Name of the model that mines."""
        names = list(self.stage_of(EmbedForRetrieval).config.models)
        return self.config.mine_with or names[0]

    def check(self) -> None:
        """Check that the model that mines is one of those that embed."""
        from ray_pipeline.core.config import nearest
        from ray_pipeline.core.errors import UserError

        names = list(self.stage_of(EmbedForRetrieval).config.models)
        if self.miner not in names:
            raise UserError(
                f"mine_with: no model {self.miner!r} in stages.embed.models"
                f"{nearest(self.miner, names)}"
            )

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Judge, check, mine, and write."""
        golden = self.golden(rows)
        for query in golden.left_out[:3]:
            place.say(f"  no relevant context: {query.text!r} ({query.family})")
        found = leaks(golden)
        if any(found.values()):
            raise RunError(_leak_message(found))
        models = list(self.stage_of(EmbedForRetrieval).config.models)
        vectors = vectors_of(rows, golden, models)
        mined = self._mine(golden, vectors[self.miner])
        storage = place.storage
        by_id = {
            golden.queries[number].row_id: [golden.context_ids[n] for n in one.contexts.tolist()]
            for number, one in mined.items()
        }
        storage.write_bytes(MINED, orjson.dumps(by_id))
        storage.write_bytes(NEGATIVES, _page(golden, mined, self.miner).encode())
        pools = self._pools(golden, list(vectors.values()))
        pairs = list(self._pairs(golden, mined, pools))
        _write_pairs(storage, golden, pairs, self.settings.for_spreadsheets)
        _write_beir(storage, golden)
        figures = _figures(golden, pairs, mined)
        storage.write_bytes(SUMMARY, orjson.dumps(figures))
        return figures

    def _mine(self, golden: GoldenSet, vectors: Mapping[str, Any]) -> dict[int, Mined]:
        """Hard negatives of the training queries, among the contexts that are trained on."""
        return {
            number: mine(
                vectors["text"] @ vectors["queries"][number],
                golden.judged[number],
                golden.is_training.tolist(),
                self.config.mining,
            )
            for number in golden.numbers("train")
        }

    def _pools(self, golden: GoldenSet, models: Sequence[Mapping[str, Any]]) -> dict[int, Any]:
        """For held-out queries: what BM25 and the models find, without what is graded."""
        numbers = [n for n, query in enumerate(golden.queries) if query.side != "train"]
        if not numbers:
            return {}
        texts = [golden.queries[number].text for number in numbers]
        tops = [top(Bm25(golden.texts).scores(texts), _POOL)]
        tops += [top(one["queries"][numbers] @ one["text"].T, _POOL) for one in models]
        return {
            number: pooled([ranking[place] for ranking in tops], golden.judged[number])
            for place, number in enumerate(numbers)
        }

    def _pairs(
        self, golden: GoldenSet, mined: Mapping[int, Mined], pools: Mapping[int, Any]
    ) -> Iterator[tuple[int, int, float]]:
        """The pairs of the CSV: query, context, grade."""
        config = self.config
        generator = np.random.default_rng(self.settings.seed)
        sides = {side: [own == side for own in golden.sides] for side in SIDES}
        for number, (query, judged) in enumerate(zip(golden.queries, golden.judged, strict=True)):
            own = np.array(sides[query.side])[judged.contexts]
            order = generator.permutation(len(judged.contexts))
            order = order[np.lexsort((-judged.grades[order], ~own[order]))]
            for place in order[: config.positives]:
                if own[place]:
                    yield number, int(judged.contexts[place]), float(judged.grades[place])
            hard = mined[number].contexts if number in mined else ()
            pool = generator.permutation(pools.get(number, np.empty(0, np.int64)))
            random = at_random(judged, sides[query.side], config.random_negatives, generator)
            negatives = [*hard, *pool[: config.pooled_negatives], *random]
            for context in dict.fromkeys(int(context) for context in negatives):
                yield number, context, 0.0


def _leak_message(found: Mapping[str, Sequence[str]]) -> str:
    parts = [
        f"{len(examples)} {kind} (such as {examples[0]!r})"
        for kind, examples in found.items()
        if examples
    ]
    return (
        f"training and held-out queries share {', '.join(parts)}. Hold out whole genres, themes "
        "and wordings under stages.split-families.held_out, or draw sides by what they share"
    )


def _write_pairs(
    storage: Storage, golden: GoldenSet, pairs: Sequence[tuple[int, int, float]], safe: bool
) -> None:
    lines = [
        (
            golden.queries[query].text,
            golden.tagged[context],
            f"{grade:.4g}" if grade % 1 else f"{grade:.1f}",
        )
        for query, context, grade in pairs
    ]
    if safe:
        table = pa.table({"query": [a for a, _, _ in lines], "context": [b for _, b, _ in lines]})
        table = without_formulas(table)
        texts = zip(table["query"].to_pylist(), table["context"].to_pylist(), strict=True)
        lines = [(a, b, grade) for (a, b), (_, _, grade) in zip(texts, lines, strict=True)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query", "context", "relevance"))
    writer.writerows(lines)
    storage.write_bytes(PAIRS, text.getvalue().encode())


def _write_beir(storage: Storage, golden: GoldenSet) -> None:
    corpus = (
        {"_id": row_id, "title": tags[-1] or "", "text": text,
         "metadata": {"genre": tags[0], "theme": tags[1], "split": side}}
        for row_id, text, tags, side in zip(
            golden.context_ids, golden.texts, golden.tags, golden.sides, strict=True
        )
    )  # fmt: skip
    queries = (
        {"_id": query.row_id, "text": query.text,
         "metadata": {"kind": query.kind, "family": query.family}}
        for query in golden.queries
    )  # fmt: skip
    for name, lines in (("corpus", corpus), ("queries", queries)):
        content = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
        storage.write_bytes(f"{BEIR}/{name}.jsonl", content)
    for side in SIDES:
        text = ["query-id\tcorpus-id\tscore\n"]
        for query, judged in zip(golden.queries, golden.judged, strict=True):
            if query.side == side:
                for context, grade in zip(judged.contexts, judged.grades, strict=True):
                    score = max(1, int(grade * BEIR_GRADES))
                    text.append(f"{query.row_id}\t{golden.context_ids[context]}\t{score}\n")
        storage.write_bytes(f"{BEIR}/qrels/{side}.tsv", "".join(text).encode())


def _page(golden: GoldenSet, mined: Mapping[int, Mined], model: str) -> str:
    """The mined negatives that score above their query's best positive, for a person to read."""
    above = [
        (float(score) - one.positive, number, int(context))
        for number, one in mined.items()
        for context, score in zip(one.contexts, one.scores, strict=True)
        if score > one.positive
    ]
    total = sum(len(one.contexts) for one in mined.values())
    lines = [
        "# Hard negatives that score above their positive\n",
        f"{len(above)} of {total} hard negatives, mined with `{model}`, score above the best "
        "context that their query asks for. If many of these look right to a reader, the "
        "judgements miss something.\n",
    ]
    for lead, number, context in sorted(above, reverse=True)[:_SHOWN]:
        query = golden.queries[number]
        lines.append(f"- **{query.text}** ({query.family}), +{lead:.3f}: {golden.tagged[context]}")
    return "\n".join(lines) + "\n"


def _figures(
    golden: GoldenSet, pairs: Sequence[tuple[int, int, float]], mined: Mapping[int, Mined]
) -> dict[str, Any]:
    kinds = Counter((query.side, query.kind) for query in golden.queries)
    number = sum(len(one.contexts) for one in mined.values())
    return {
        "contexts": dict(Counter(golden.sides)),
        "queries": dict(Counter(query.side for query in golden.queries)),
        "kinds": {
            side: {k: n for (s, k), n in sorted(kinds.items()) if s == side} for side in SIDES
        },
        "families": {
            side: len({query.family for query in golden.queries if query.side == side})
            for side in SIDES
        },
        "left_out": len(golden.left_out),
        "pairs": len(pairs),
        "relevant_pairs": sum(grade >= RELEVANT for _, _, grade in pairs),
        "partly_relevant_pairs": sum(0 < grade < RELEVANT for _, _, grade in pairs),
        "irrelevant_pairs": sum(grade == 0 for _, _, grade in pairs),
        "judgements": sum(len(judged.contexts) for judged in golden.judged),
        "mined": number,
        "mined_above_positive": sum(int((m.scores > m.positive).sum()) for m in mined.values()),
        "candidates_judged_relevant": sum(one.judged_away for one in mined.values()),
        "leaks": 0,
    }
