"""The configuration of a source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_pipeline.core.config import Section


class SourceConfig(Section):
    """Where the rows come from.

    ``path`` is a file, a directory, a glob, or an ``s3://`` URI of one of these; a folder written
    by ``datasets.save_to_disk``; or ``hf://NAME`` for a data set of the hub (with ``split``).
    """

    path: str | list[str] = Field(
        description="a file, folder or glob, an s3:// URI of one, a folder of "
        "`datasets.save_to_disk`, or hf://NAME; or a list of them"
    )
    columns: dict[str, str] = Field(
        {},
        description="the pipeline's name of a column → the file's name of it; other columns keep "
        "their names",
    )
    limit: int | None = Field(
        None, ge=1, description="read at most this many rows, from the first on; null: all rows"
    )
    split: str | None = Field(None, description="split of a Hugging Face data set that has several")
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="delimiter of CSV files; null: detected (comma, semicolon, tab or bar)",
    )
    encoding: str = Field("utf-8", description="encoding of text files")
    nested: Literal["fail", "json"] = Field(
        "fail",
        description="what a list or an object becomes in a JSON column that the job reads as text: "
        "`fail`, its row fails; `json`, its JSON text. Numbers, true and false become text as the "
        "file writes them",
    )
