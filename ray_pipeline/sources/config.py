"""Configuration of the source."""

from __future__ import annotations

from pydantic import Field

from ray_pipeline.core.config import Section


class SourceConfig(Section):
    """Where the rows come from.

    ``path`` is a file, a directory, a glob, or an ``s3://`` URI of one of these; a folder written
    by ``datasets.save_to_disk``; or ``hf://NAME`` for a data set of the hub (with ``split``).
    """

    path: str | list[str]
    #: Pipeline's name of a column -> the file's name of it. Other columns keep their names.
    columns: dict[str, str] = {}
    #: Only the first so many rows.
    limit: int | None = Field(None, ge=1)
    #: Split of a Hugging Face data set that has several.
    split: str | None = None
    #: CSV only; None finds it out (comma, semicolon, tab, bar).
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    encoding: str = "utf-8"
