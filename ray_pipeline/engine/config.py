"""The configuration that every job has, and its type with the sections of a job's stages."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    create_model,
    model_serializer,
    model_validator,
)

from ray_pipeline.core.config import (
    Section,
)
from ray_pipeline.core.file_names import check_name
from ray_pipeline.llm.config import (
    Budget,
    LlmConfig,
)
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.stage import Stage

#: Restricted, because it is part of dotted keys (``--set sources.NAME.path=...``).
SourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class EmbedderConfig(Section):
    """The sentence-embedding model that stages share."""

    model: str = Field(
        "all-minilm-l6-v2",
        description="sentence-embedding model: a packaged name, a folder or a hub id",
    )


class ExportConfig(Section):
    """Files with the rows that every stage kept, under ``exports/``."""

    name: Annotated[str, AfterValidator(check_name)] = Field(
        "dataset", description="name of the exported files: no path, and without suffix"
    )
    formats: list[typing.Literal["csv", "jsonl", "parquet", "hf"]] = Field(
        ["csv", "jsonl"],
        description="formats of the exported rows; hf is a folder for `datasets.load_from_disk`",
    )
    for_spreadsheets: bool = Field(
        False,
        description="CSV files are safe to open in a spreadsheet: a text or a column's name that "
        "begins like a formula (`=`, `+`, `-`, `@`, a tab or a line end) gets an apostrophe before "
        "it; false: texts are written as they are",
    )


class RunConfig(Section):
    """The configuration that every job has; the job's own stages define ``stages``."""

    name: str = Field(
        description="name of the run; it also names the job script, unless `job` is set"
    )
    job: str | None = Field(
        None,
        description="job script: its name in `jobs/`, or a path; null: found by `name`, or "
        "by the folder of the configuration file. The script is run: see docs/concepts/security.md",
    )
    run_dir: str = Field(
        description="run directory: a local path or an object-storage URI such as s3://bucket/run"
    )
    seed: int = Field(
        0,
        description="seed of everything that is random: splits, samples, typing errors, "
        "requests to models",
    )
    unit_rows: int | None = Field(
        None,
        ge=1,
        description="rows per unit; null: 512, doubled until there are at most some 10,000 units",
    )
    until: str | None = Field(None, description="last stage to run; null: all of them")
    save_every_stage: bool = Field(
        False,
        description="commit every stage on its own; false: consecutive map stages commit together",
    )
    source: SourceConfig | None = Field(
        None, description="where the rows come from; for several sources, use `sources` instead"
    )
    sources: dict[SourceName, SourceConfig] = Field(
        {},
        description="several sources by name, instead of `source`; each row carries the name of "
        "its source",
    )
    llms: dict[str, LlmConfig] = Field(
        {}, description="language models by the names that stages use"
    )
    embedder: EmbedderConfig = EmbedderConfig()
    budget: Budget = Budget()
    export: ExportConfig = ExportConfig()
    address: str | None = Field(
        None,
        description="address of a Ray cluster to join; null: the one running on this "
        "machine, else a new one",
    )
    autoscaling: bool = Field(
        False,
        description="the cluster adds nodes on demand, so needs beyond its present size are "
        "not refused",
    )
    stalled_after_seconds: float | None = Field(
        600.0,
        gt=0,
        description="the run fails if it makes no progress for this number of seconds although "
        "it waits for nothing that it can name (a server's pause, a request within its time-out, "
        "an engine that starts) and none of its processes computes; null: never",
    )
    stuck_after_seconds: float | None = Field(
        1800.0,
        gt=0,
        description="a unit that one worker has worked on for longer than this in map stages or a "
        "model stage, and for ten times as long as on the slowest unit so far, is stopped; its "
        "rows run one at a time, and a row that takes longer than a tenth of this fails; null: "
        "never",
    )
    stages: Any = {}

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if bool(self.source) == bool(self.sources):
            found = "both of them" if self.source else "neither"
            raise ValueError(
                "expected the key 'source' for one source, or 'sources' for several by name, as in "
                f"sources: {{queries: {{path: ...}}, corpus: {{path: ...}}}}; found {found}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_the_other(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        data.pop("source" if self.sources else "sources", None)
        return data

    @property
    def all_sources(self) -> dict[str, SourceConfig]:
        """The sources by name; the name of an unnamed source is empty."""
        return dict(self.sources) if self.source is None else {"": self.source}


def config_type(stages: Sequence[Stage]) -> type[RunConfig]:
    """The configuration type of a job: `RunConfig` with one key under ``stages`` per stage."""
    fields: dict[str, Any] = {}
    for stage in stages:
        # Stage names have dashes and may be words like "validate" that pydantic uses itself: the
        # YAML key is an alias.
        schema = stage.config_type
        default = None if _has_required(schema) else schema()
        fields[_field_name(stage.name)] = (
            schema,
            Field(... if default is None else default, alias=stage.name),
        )
    section = create_model("Stages", __base__=Section, **fields)
    needed = any(_has_required(stage.config_type) for stage in stages)
    default_section: Any = ... if needed else section()
    return create_model("Config", __base__=RunConfig, stages=(section, default_section))


def stage_config(config: RunConfig, stage: str) -> Any:
    """The configuration of the stage with this name."""
    return getattr(config.stages, _field_name(stage))


def _field_name(stage: str) -> str:
    return "stage_" + stage.replace("-", "_")


def _has_required(model: type[BaseModel]) -> bool:
    return any(info.is_required() for info in model.model_fields.values())
