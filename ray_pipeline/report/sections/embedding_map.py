"""A map of the embeddings: rows with similar meanings are close together, outliers are marked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from ray_pipeline.core.columns import is_vector
from ray_pipeline.core.rows import KEPT, reason_code
from ray_pipeline.core.text import one_line, plain, shortened
from ray_pipeline.report import drawing
from ray_pipeline.report.reading import ReportReader, segments_with, some_units
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.reader import SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

COLUMN = "embedding"
EVIDENCE = ("outlier_rule", "outlier_cluster", "outlier_score", "outlier_verdict")
#: Rows on the map, and outliers beyond those that happen to be among them.
_POINTS, _OUTLIERS = 1_500, 300
#: Parts that are opened for them: at least and, while there are fewer rows, at most.
_PARTS, _MOST_PARTS = 24, 200
#: With fewer rows the neighbourhoods that t-SNE preserves mean nothing: PCA is used instead.
_TSNE_FROM = 30
_DIMENSIONS = 50
#: Clusters that have a colour of their own; the others share one.
_COLOURED = 6
#: Units of the drawing; outliers that are listed below it; characters of a text.
_WIDTH, _HEIGHT, _MARGIN = 1000, 640, 16
_LISTED, _TITLE, _TEXT = 10, 90, 200

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mark:
    """A kind of point, for the legend."""

    kind: str
    symbol: Markup
    label: str
    points: int


@dataclass(frozen=True)
class Outlier:
    """A row that was dropped as an outlier, with the evidence."""

    row_id: str
    reason: str
    rule: str | None
    cluster: int | None
    score: float | None
    verdict: str | None
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class EmbeddingMap:
    """The section."""

    svg: Markup
    marks: list[Mark]
    #: ``t-SNE`` or ``PCA``: how the embeddings were projected to two dimensions.
    method: str
    points: int
    #: Sampled rows that have no usable embedding and are left out.
    unusable: int
    #: Rows that the stage with the embeddings had.
    of_rows: int
    outliers: list[Outlier]
    #: Rows dropped by reason, from the ledger.
    reasons: dict[str, int]


def read(reader: ReportReader) -> EmbeddingMap | None:
    """Draw the map; None where no stage has embeddings of at least two rows."""
    segments = [
        s for s in segments_with(reader, COLUMN) if is_vector(reader.schema(s).field(COLUMN).type)
    ]
    if not segments:
        return None
    rows, unusable = _sampled(reader, segments[0])
    if len(rows) < 2:
        return None
    flat, method = _projected(np.stack([row[COLUMN] for row in rows]))
    kinds = _kinds(rows)
    account = reader.entry(segments[0].stages[-1]).account
    reasons: Counter[str] = Counter()
    for entry in reader.ledger.entries:
        for code, number in entry.account.reasons.items():
            if code.startswith("outlier:"):
                reasons[code] += number
    return EmbeddingMap(
        svg=_svg(flat, rows, kinds),
        marks=_marks(kinds, rows),
        method=method,
        points=len(rows),
        unusable=unusable,
        of_rows=account.rows_in + account.created,
        outliers=_outliers(rows),
        reasons=dict(sorted(reasons.items())),
    )


def _sampled(reader: ReportReader, home: SegmentFolder) -> tuple[list[dict[str, Any]], int]:
    """Rows with their embeddings, texts and outcomes, and how many have no usable embedding.

    A random sample (the smallest row ids), and the outliers of the parts that were opened.
    """
    names = text_columns(reader, reader.schema(home))
    sample: list[dict[str, Any]] = []
    outliers: list[dict[str, Any]] = []
    seen = 0
    for opened, unit in enumerate(some_units(reader, _MOST_PARTS)):
        if opened >= _PARTS and seen >= _POINTS:
            break
        outcomes = _outcomes(reader, home, unit)
        table = reader.columns(home, unit, ["row_id", "status", COLUMN, *names])
        if table is None:
            continue
        seen += table.num_rows
        lost = [
            row_id
            for row_id, outcome in outcomes.items()
            if str(outcome["reason"]).startswith("outlier:")
        ]
        chosen = _smallest(table, _POINTS)
        sample = sorted(sample + _rows(chosen, outcomes), key=_by_id)[:_POINTS]
        if lost and (room := _OUTLIERS - len(outliers)):
            is_lost = pc.is_in(table["row_id"], pa.array(lost, pa.string()))
            outliers += _rows(_smallest(table.filter(is_lost), room), outcomes)
    known = {row["row_id"] for row in sample}
    rows = sample + [row for row in outliers if row["row_id"] not in known]
    length = Counter(len(r[COLUMN]) for r in rows if r[COLUMN] is not None).most_common(1)
    usable = [row for row in rows if length and _is_usable(row[COLUMN], length[0][0])]
    for row in usable:
        row["texts"] = [(name, row[name]) for name in names]
    return usable, len(rows) - len(usable)


def _by_id(row: dict[str, Any]) -> str:
    return str(row["row_id"])


def _smallest(rows: pa.Table, number: int) -> pa.Table:
    """The rows with the smallest ids: as good as drawn at random."""
    return rows.take(pc.sort_indices(rows["row_id"])[:number])


def _rows(table: pa.Table, outcomes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as dictionaries with their outcomes, embeddings as arrays."""
    rows = table.to_pylist()
    for row in rows:
        vector = row[COLUMN]
        row[COLUMN] = None if vector is None or None in vector else np.array(vector, np.float32)
        row |= outcomes.get(row["row_id"], {"reason": None})
    return rows


def _is_usable(vector: Floats | None, length: int) -> bool:
    return vector is not None and 0 < len(vector) == length and bool(np.isfinite(vector).all())


def _outcomes(reader: ReportReader, home: SegmentFolder, unit: Unit) -> dict[str, dict[str, Any]]:
    """Reason and evidence of a unit's rows, by id, as the stages from `home` on left them."""
    outcomes: dict[str, dict[str, Any]] = {}
    for segment in reader.segments[reader.segments.index(home) :]:
        if not _may_say_outlier(reader, segment):
            continue
        rows = reader.columns(segment, unit, ["row_id", "status", "reason", *EVIDENCE])
        for row in rows.to_pylist() if rows is not None else []:
            row["reason"] = None if row.pop("status") == KEPT else row["reason"]
            known = {name: v for name, v in row.items() if v is not None or name == "reason"}
            outcomes.setdefault(row["row_id"], {}).update(known)
    return outcomes


def _may_say_outlier(reader: ReportReader, segment: SegmentFolder) -> bool:
    has_evidence = set(EVIDENCE) & set(reader.schema(segment).names)
    return bool(has_evidence) or any(
        reason.startswith("outlier:")
        for stage in segment.stages
        for reason in reader.entry(stage).account.reasons
    )


def _projected(vectors: Floats) -> tuple[Floats, str]:
    """Project to two dimensions. The same vectors give the same map: one thread, one seed."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if not np.ptp(vectors, axis=0).any():  # all are equal
        return np.zeros((len(vectors), 2), np.float32), "PCA"
    few = len(vectors) < _TSNE_FROM
    dimensions = min(2 if few else _DIMENSIONS, *vectors.shape)
    # In double precision: in single precision the order of the sums changes the map.
    with threadpool_limits(1):
        reduced = PCA(dimensions, svd_solver="full").fit_transform(vectors.astype(np.float64))
        if few or dimensions < 2:
            flat = np.zeros((len(vectors), 2), np.float32)
            flat[:, : min(2, dimensions)] = reduced[:, :2]
            return flat, "PCA"
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=0, n_jobs=1, max_iter=500)
        return np.asarray(tsne.fit_transform(reduced), np.float32), "t-SNE"


def _kinds(rows: list[dict[str, Any]]) -> list[str]:
    """What each row is drawn as."""
    clusters = Counter(
        row["outlier_cluster"]
        for row in rows
        if row.get("outlier_cluster") is not None and row["outlier_cluster"] >= 0
    )
    ranked = sorted(clusters, key=lambda c: (-clusters[c], c))[:_COLOURED]
    return [_kind(row, ranked) for row in rows]


def _kind(row: dict[str, Any], ranked: list[Any]) -> str:
    reason = reason_code(row["reason"] or "")
    if reason.startswith("outlier:"):
        return f"out-{reason.removeprefix('outlier:')}"
    if row.get("outlier_verdict") is not None:
        return "spared"
    cluster = row.get("outlier_cluster")
    if cluster is None:
        return "alone" if any(row.get(name) is not None for name in EVIDENCE) else "point"
    if cluster < 0:
        return "noise"
    return f"c{ranked.index(cluster)}" if cluster in ranked else "other"


def _svg(flat: Floats, rows: list[dict[str, Any]], kinds: list[str]) -> Markup:
    low, high = flat.min(axis=0), flat.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    size = np.array([_WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN])
    places = _MARGIN + (flat - low) / span * size
    # Outliers last, on top of the others.
    order = sorted(range(len(rows)), key=lambda i: (kinds[i].startswith("out-"), i))
    shapes = [_point(kinds[i], places[i][0], places[i][1], _title(rows[i])) for i in order]
    return drawing.svg(shapes, _WIDTH, _HEIGHT, "map", label="Map of the embeddings")


def _point(kind: str, x: float, y: float, title: str = "") -> str:
    shape: Literal["circle", "cross", "diamond", "triangle"] = "circle"
    if kind == "out-rule":
        shape = "cross"
    elif kind == "out-cluster":
        shape = "diamond"
    elif kind.startswith("out-"):  # a judge's, or that of a stage of somebody's own
        shape, kind = "triangle", "out-judge"
    return drawing.marker(kind, x, y, shape, title)


def _title(row: dict[str, Any]) -> str:
    texts = " / ".join(one_line(text, _TITLE) for _, text in row["texts"])
    facts = [plain(row["reason"])] if row["reason"] else []
    if row.get("outlier_cluster") is not None:
        facts.append(f"cluster {row['outlier_cluster']}")
    return "; ".join([texts, *facts])


_LABELS = {
    "noise": "in no cluster",
    "alone": "not an outlier",
    "other": "smaller clusters",
    "point": "rows",
    "spared": "suspected, but kept",
    "out-rule": "dropped: breaks a rule",
    "out-cluster": "dropped: far from every cluster",
    "out-judge": "dropped: by the judge's verdict",
}


def _marks(kinds: list[str], rows: list[dict[str, Any]]) -> list[Mark]:
    counted = Counter(kinds)
    number = {kind: rows[kinds.index(kind)].get("outlier_cluster") for kind in counted}
    order = [f"c{i}" for i in range(_COLOURED)] + list(_LABELS)
    ranked = sorted(counted, key=lambda k: (order.index(k) if k in order else len(order), k))
    marks = []
    for kind in ranked:
        other = f"dropped: {kind.removeprefix('out-')}"
        label = f"cluster {number[kind]}" if kind[0] == "c" else _LABELS.get(kind, other)
        symbol = drawing.svg([_point(kind, 12, 12)], 24, 24, "symbol")
        marks.append(Mark(kind, symbol, label, counted[kind]))
    return marks


def _outliers(rows: list[dict[str, Any]]) -> list[Outlier]:
    """Some outliers of every reason, those with the highest scores first."""
    lost = [row for row in rows if str(row["reason"]).startswith("outlier:")]
    lost.sort(key=lambda row: (-(row.get("outlier_score") or 0), row["row_id"]))
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in lost:
        by_reason.setdefault(reason_code(row["reason"]), []).append(row)
    each = max(3, _LISTED // max(len(by_reason), 1))
    chosen = [row for reason in sorted(by_reason) for row in by_reason[reason][:each]]
    return [
        Outlier(
            row_id=row["row_id"],
            reason=plain(row["reason"]),
            rule=row.get("outlier_rule"),
            cluster=row.get("outlier_cluster"),
            score=row.get("outlier_score"),
            verdict=row.get("outlier_verdict"),
            texts=[(name, shortened(plain(text), _TEXT)) for name, text in row["texts"]],
        )
        for row in chosen
    ]


SECTION = Section("map", "Map of the embeddings", "embedding_map.html.j2", read)
