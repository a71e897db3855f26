"""A toy job with two sources: texts of a corpus, and queries that are looked up in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from toy import Ask, First, Shout

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Workplace


class AskQueries(Ask):
    reads = {"text": pa.string()}


class Index(ArtifactStage):
    """Of the corpus alone: its texts, and how often it was made."""

    name = "index"
    sources = ("corpus",)
    reads = {"text": pa.string()}
    makes = ("index.json",)

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        before = json.loads(place.storage.read_bytes("index.json") or b'{"made": 0}')["made"]
        texts = [text for table in rows.tables(["text"]) for text in table["text"].to_pylist()]
        index = {"made": before + 1, "texts": sorted(texts)}
        place.storage.write_bytes("index.json", json.dumps(index).encode())
        return {"texts": len(texts)}


class Compare(ArtifactStage):
    """Of both: a column of each source, and the topics that only the queries have."""

    name = "compare"
    reads = {"shout": pa.string(), "topic": pa.string()}
    makes = ("compared.json",)

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        column = {"corpus": "shout", "queries": "topic"}[source]
        return {column: self.reads[column]}

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        columns = ["source_name", "shout", "topic", "answer"]
        table = pa.concat_tables(rows.tables(columns))
        place.storage.write_bytes("compared.json", json.dumps(table.to_pylist()).encode())
        return {"rows": table.num_rows}


PIPELINE = Pipeline(
    "toy-sources",
    [
        Shout(sources=["corpus"]),
        First(sources=["corpus"]),
        AskQueries(sources=["queries"]),
        Index(),
        Compare(),
    ],
)
