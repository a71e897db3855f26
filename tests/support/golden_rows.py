"""A small golden set as rows of a run: contexts and queries on three sides."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support.stored_parts import put_part

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings
from ray_pipeline.stages.retrieval.embed import VECTOR, EmbedForRetrieval
from ray_pipeline.stages.retrieval.tags import tagged
from ray_pipeline.stages.retrieval.write_golden import WriteGolden

GENRES, THEMES = ("Fantasy", "Horror", "Spy", "Western"), ("Magic", "Love", "Grief")
HELD_OUT = {
    "validation": {"genre": ["Spy"], "wording": ["validation-*"]},
    "test": {"genre": ["Western"], "theme": ["Grief"], "wording": ["test-*"]},
}
_SIDES = {"Spy": "validation", "Western": "test", "Grief": "test"}
_ORDER = ("train", "validation", "test")


def _side(*values: str | None) -> str:
    return max((_SIDES.get(value or "", "train") for value in values), key=_ORDER.index)


def _context(genre: str, theme: str, number: int) -> dict[str, Any]:
    prompt = f'A "{genre.lower()}" tale, number {number}, of {theme.lower()}'
    tags = [genre, theme, f"Title {number}"]
    return {
        "row_id": f"c-{genre}-{theme}-{number}", "source_name": "corpus", "prompt": prompt,
        "context": tagged(prompt, tags), "title": tags[2], "genre": genre, "theme": theme,
        "split": _side(genre, theme), "new": "",
    }  # fmt: skip


def _query(genre: str | None, theme: str | None) -> dict[str, Any]:
    names = {"genre": genre, "theme": theme}
    wants = " ".join(name for name, value in names.items() if value)
    side = _side(genre, theme)
    return {
        "row_id": f"q-{genre}-{theme}", "source_name": "queries", "wants": wants, "kind": wants,
        "query": f"{side}: find {genre or ''} {theme or ''}", "split": side, "new": "",
        "wording": f"{side}-0", **names,
    }  # fmt: skip


CONTEXTS = [_context(g, t, n) for g in GENRES for t in THEMES for n in range(3)]
QUERIES = [
    *(_query(genre, None) for genre in GENRES),
    *(_query(None, theme) for theme in THEMES),
    *(_query(genre, theme) for genre in GENRES for theme in THEMES),
    {**_query("Fantasy", None), "row_id": "q-mixed", "wording": "test-0", "query": "of two sides"},
]
_COLUMNS = (
    "source_name", "prompt", "context", "title", "query", "kind", "wants", "wording", "genre",
    "theme", "split", "new", "question", "answer",
)  # fmt: skip


def golden_rows(
    split: bool = True,
    folder: Path | None = None,
    vectors: bool = False,
    extra: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """The rows, stored: `StoredRows`; with ``split`` false the table as it is before the split.

    Args:
        split: with sides, and without the query of two sides.
        folder: where they are stored; by default a temporary one.
        vectors: with vectors of a model ``toy``.
        extra: further contexts (with a ``prompt``) and queries.
    """
    rows = [*CONTEXTS, *(query for query in QUERIES if not split or query["row_id"] != "q-mixed")]
    for row in extra:
        kind = {"source_name": "corpus", "context": row["prompt"]} if "prompt" in row else {
            "source_name": "queries", "kind": "extra"
        }  # fmt: skip
        rows.append({"new": "", **kind, **row})
    names = [name for name in _COLUMNS if split or name not in ("split", "new")]
    columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    if vectors:
        generator = np.random.default_rng(5)
        made = [v.tolist() for v in generator.normal(size=(len(rows), 4)).astype(np.float32)]
        columns |= {name: pa.array(made, VECTOR) for name in ("text_toy", "tagged_toy")}
    table = with_envelope(pa.table(columns), [row["row_id"] for row in rows])
    if not split:
        return table
    place = folder or Path(tempfile.mkdtemp(prefix="golden-rows-"))
    put_part(place / "rows.parquet", table)
    return StoredRows(Storage(str(place)), ("rows.parquet",), "digest")


def write_stage(**config: Any) -> WriteGolden:
    """The stage that judges these rows."""
    embed = EmbedForRetrieval().bound({"models": {"toy": {"model": "toy"}}})
    stage = WriteGolden().bound({"attributes": ["genre", "theme"], "positives": 99, **config})
    settings = Settings(seed=3, stages=[embed, stage])
    return stage.bound(stage.config, settings)
