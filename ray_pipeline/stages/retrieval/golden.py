"""The golden set: contexts, queries, and which contexts each query asks for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.evaluate.ranking import RELEVANT, Floats, Ints, Judged
from ray_pipeline.models.embedder import Vectors
from ray_pipeline.rundir.layout import SOURCE_NAME, SPLIT
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stages.retrieval.split import NEW, SIDES
from ray_pipeline.stages.text.keys import normalised

#: The kind of queries that were written by hand; they have tables of their own.
BY_HAND = "by hand"
TAGS = ("genre", "theme", "title")


@dataclass(frozen=True)
class Query:
    """A query of the golden set.

    Attributes:
        row_id: of its row.
        text: as it is asked.
        kind: ``genre``, ``theme``, ``detail``, …
        side: ``train``, ``validation`` or ``test``.
        family: what it asks for, such as ``genre=Western; theme=Grief``: the same for queries that
            ask for it in other words.
        wording: name of its wording; empty where it has none.
        new: the columns of whose held-out values it asks for; empty in training.
    """

    row_id: str
    text: str
    kind: str
    side: str
    family: str
    wording: str
    new: str


@dataclass(frozen=True)
class GoldenSet:
    """Contexts and queries with their graded relevance.

    Attributes:
        context_ids: row ids of the contexts.
        texts: the contexts alone.
        tagged: the contexts with their tags.
        tags: genre, theme and title of each; None where it has none.
        sides: of the contexts.
        queries: the queries.
        judged: for each query, the contexts that it asks for at least partly, of those that its
            side may see.
        left_out: queries without a relevant context, which are not in ``queries``.
    """

    context_ids: list[str]
    texts: list[str]
    tagged: list[str]
    tags: list[tuple[str | None, ...]]
    sides: list[str]
    queries: list[Query]
    judged: list[Judged]
    left_out: list[Query] = field(default_factory=list)

    def numbers(self, side: str, by_hand: bool = False) -> list[int]:
        """Numbers of the queries of a side, either without those written by hand or only those."""
        return [
            number
            for number, query in enumerate(self.queries)
            if query.side == side and (query.kind == BY_HAND) == by_hand
        ]

    def visible(self, side: str) -> npt.NDArray[np.bool_]:
        """Which contexts the queries of a side are ranked against.

        Test queries against all: contexts that were trained on are distractors. Validation queries
        against all but those of the test, training queries against those of the training.
        """
        return np.isin(self.sides, SIDES[: SIDES.index(side) + 1])

    @cached_property
    def is_training(self) -> npt.NDArray[np.bool_]:
        """Which contexts are trained on."""
        return np.array([side == "train" for side in self.sides], bool)

    def view(self, name: str) -> list[str]:
        """The contexts as a retriever sees them: ``text`` or ``tagged``."""
        return self.texts if name == "text" else self.tagged


def wanted(wants: str) -> list[str]:
    """The columns that a query's ``wants`` names: ``genre theme`` or ``genre, theme``."""
    return sorted(dict.fromkeys(wants.replace(",", " ").split()))


def read_golden(
    rows: StoredRows, attributes: Sequence[str], partial: float, leave_out: bool
) -> GoldenSet:
    """The golden set of a run's kept rows.

    Of the contexts that a query's side may see, one is relevant (grade 1) if it has all values that
    the query wants; with some of them its grade is their share, if that is at least ``partial``.

    Args:
        rows: with the columns ``prompt``, ``context``, ``query``, ``kind``, ``wants`` and the
            attributes.
        attributes: columns that a query may want.
        partial: the smallest share of wanted values that gets a grade.
        leave_out: leave out queries without a relevant context; else they are an error.

    Raises:
        UserError: there is no context or no query, a query wants no attribute, or no context has
            what it wants.
    """
    present = set(rows.columns)
    names = [name for name in attributes if name in present]
    extra = [name for name in (*TAGS, "wording") if name in present]
    columns = ["row_id", SOURCE_NAME, "prompt", "context", "query", "kind", "wants", SPLIT, NEW]
    table = pa.concat_tables(rows.tables(list(dict.fromkeys([*columns, *names, *extra]))))
    corpus = _sorted(table.filter(pc.equal(table[SOURCE_NAME], "corpus")))
    asked = _sorted(table.filter(pc.equal(table[SOURCE_NAME], "queries")))
    for kind, source in ((corpus, "corpus"), (asked, "queries")):
        if not kind.num_rows:
            raise UserError(f"no row of sources.{source} is left: nothing can be retrieved")
    postings = {name: _postings(corpus[name].to_pylist()) for name in names}
    order = {side: place for place, side in enumerate(SIDES)}
    of_context = np.array([order[side] for side in corpus[SPLIT].to_pylist()])
    queries, judged, left_out = [], [], []
    for row in asked.to_pylist():
        query = _query(row, names)
        grades = _judge(row, wanted(row["wants"]), postings, partial)
        grades = {n: g for n, g in grades.items() if of_context[n] <= order[query.side]}
        if any(grade >= RELEVANT for grade in grades.values()):
            queries.append(query)
            judged.append(Judged.of(grades))
        else:
            left_out.append(query)
    if left_out and not leave_out:
        raise UserError(_without_context(left_out))
    if not queries:
        raise UserError("no query has a relevant context")
    empty: list[str | None] = [None] * corpus.num_rows
    tags = [corpus[n].to_pylist() if n in corpus.column_names else empty for n in TAGS]
    return GoldenSet(
        context_ids=corpus["row_id"].to_pylist(),
        texts=corpus["prompt"].to_pylist(),
        tagged=corpus["context"].to_pylist(),
        tags=list(zip(*tags, strict=True)),
        sides=corpus[SPLIT].to_pylist(),
        queries=queries,
        judged=judged,
        left_out=left_out,
    )


def _sorted(table: pa.Table) -> pa.Table:
    """In the order of row ids: the same however the rows were cut into units."""
    return table.sort_by("row_id")


def _query(row: Mapping[str, Any], attributes: Collection[str]) -> Query:
    names = wanted(row["wants"] or "")
    for name in names:
        if name not in attributes:
            raise UserError(
                f"query {row['query']!r} wants {name!r}, which is no attribute of contexts"
                f"{nearest(name, list(attributes))}: see stages.write-golden.attributes"
            )
    if not names or any(row[name] is None for name in names):
        lacking = next((name for name in names if row[name] is None), None)
        what = f"has no value in {lacking!r}" if lacking else "wants nothing"
        raise UserError(
            f"query {row['query']!r} {what}: `wants` names the columns whose values a relevant "
            "context shares with it"
        )
    return Query(
        row_id=row["row_id"],
        text=row["query"],
        kind=row["kind"] or "query",
        side=row[SPLIT],
        family="; ".join(f"{name}={row[name]}" for name in names),
        wording=row.get("wording") or "",
        new=row[NEW] or "",
    )


def _postings(values: Sequence[str | None]) -> dict[str, Ints]:
    """The contexts with each value."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for number, value in enumerate(values):
        if value is not None:
            found[value].append(number)
    return {value: np.array(numbers, np.int64) for value, numbers in found.items()}


def _judge(
    row: Mapping[str, Any],
    names: Sequence[str],
    postings: Mapping[str, Mapping[str, Ints]],
    partial: float,
) -> dict[int, float]:
    """The grades of the contexts that have enough of what a query wants."""
    nothing = np.empty(0, np.int64)
    having = [postings[name].get(row[name], nothing) for name in names]
    contexts, matches = np.unique(np.concatenate(having), return_counts=True)
    shares: Floats = matches / len(names)
    chosen = shares >= partial
    return dict(zip(contexts[chosen].tolist(), shares[chosen].tolist(), strict=True))


def _without_context(left_out: Sequence[Query]) -> str:
    some = ", ".join(f"{query.text!r} ({query.family})" for query in left_out[:3])
    return (
        f"{len(left_out)} queries have no relevant context: {some}. Remove them from "
        "sources.queries, add contexts to sources.corpus, or leave them out with "
        "stages.write-golden.without_context: leave_out"
    )


def leaks(golden: GoldenSet) -> dict[str, list[str]]:
    """What a held-out side shares with another one, by kind of leak; empty lists: nothing.

    ``families``: what queries ask for; ``wordings`` and ``queries``: how; ``contexts``: contexts
    that are relevant to queries of two sides; ``positives``: contexts of one side that are relevant
    to a query of another; ``texts``: contexts with equal texts but for case and punctuation.
    """
    found: dict[str, list[str]] = {
        name: [] for name in ("families", "wordings", "queries", "contexts", "positives", "texts")
    }
    seen: dict[str, dict[Any, str]] = {name: {} for name in found}

    def note(kind: str, key: Any, side: str, words: str) -> None:
        if seen[kind].setdefault(key, side) != side:
            found[kind].append(words)

    for query, judged in zip(golden.queries, golden.judged, strict=True):
        note("families", query.family, query.side, query.family)
        note("queries", normalised(query.text), query.side, query.text)
        if query.wording:
            note("wordings", query.wording, query.side, query.wording)
        for context in judged.relevant.tolist():
            note("contexts", context, query.side, golden.texts[context])
            if golden.sides[context] != query.side:
                found["positives"].append(f"{query.text} → {golden.texts[context]}")
    for text, side in zip(golden.texts, golden.sides, strict=True):
        note("texts", normalised(text), side, text)
    return {kind: sorted(set(examples)) for kind, examples in found.items()}


def vectors_of(
    rows: StoredRows, golden: GoldenSet, models: Sequence[str]
) -> dict[str, dict[str, Vectors]]:
    """The stored vectors of a run: by model, of ``queries``, ``text`` and ``tagged``.

    The rows of each are in the order of the golden set.
    """
    names = [f"{view}_{model}" for model in models for view in ("text", "tagged")]
    table = pa.concat_tables(rows.tables(["row_id", *names]))
    place = {row_id: number for number, row_id in enumerate(table["row_id"].to_pylist())}
    of_queries = pa.array([place[query.row_id] for query in golden.queries])
    of_contexts = pa.array([place[row_id] for row_id in golden.context_ids])
    return {
        model: {
            "queries": _matrix(table[f"text_{model}"].take(of_queries)),
            "text": _matrix(table[f"text_{model}"].take(of_contexts)),
            "tagged": _matrix(table[f"tagged_{model}"].take(of_contexts)),
        }
        for model in models
    }


def _matrix(column: pa.ChunkedArray) -> Vectors:
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(len(column), -1), np.float32)
