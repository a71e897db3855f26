"""Configuration of the source."""

from __future__ import annotations

from pydantic import Field

from ray_pipeline.core.config import Section


class SourceConfig(Section):
    """Where the rows come from.

    ``path`` is a file, a directory, a glob, or an ``s3://`` URI of one of these; a folder written
    by ``datasets.save_to_disk``; or ``hf://NAME`` for a data set of the hub (with ``split``).
    """

    path: str | list[str] = Field(description="where the rows are, or a list of places")
    columns: dict[str, str] = Field(
        {},
        description="the pipeline's name of a column → the file's name of it; other columns keep "
        "their names",
    )
    limit: int | None = Field(None, ge=1, description="read only this many rows, the first ones")
    split: str | None = Field(None, description="split of a Hugging Face data set that has several")
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="of CSV files; null: detected (comma, semicolon, tab, vertical bar)",
    )
    encoding: str = Field("utf-8", description="of text files, by Python's name for it")
