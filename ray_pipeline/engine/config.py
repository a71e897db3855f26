"""The configuration every job has, and the type that a job's stages make of it."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import (
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
from ray_pipeline.llm.config import (
    Budget,
    LlmConfig,
)
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.stage import Stage

#: It stands in the rows and in messages, and is set by ``--set sources.NAME.path=...``.
SourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class EmbedderConfig(Section):
    """The sentence-embedding model that stages share."""

    model: str = "all-minilm-l6-v2"


class ExportConfig(Section):
    """The files of the rows that came through every stage, under ``exports/``."""

    name: str = "dataset"
    formats: list[typing.Literal["csv", "jsonl", "parquet", "hf"]] = ["csv", "jsonl"]


class RunConfig(Section):
    """What every job's configuration has; ``stages`` is typed by the job's own stages."""

    name: str
    #: The job script: its name in ``jobs/``, or a path. By default found from `name`.
    job: str | None = None
    run_dir: str
    seed: int = 0
    unit_rows: int | None = Field(None, ge=1)
    #: The last stage to run; None: all of them.
    until: str | None = None
    save_every_stage: bool = False
    source: SourceConfig | None = Field(
        None, description="where the rows come from: this, or several `sources` by name"
    )
    sources: dict[SourceName, SourceConfig] = Field(
        {}, description="several sources by name, instead of `source`; their rows carry the name"
    )
    llms: dict[str, LlmConfig] = {}
    embedder: EmbedderConfig = EmbedderConfig()
    budget: Budget = Budget()
    export: ExportConfig = ExportConfig()
    #: Ray cluster to join; None: the one that runs here, else a new one on this machine.
    address: str | None = None
    #: Whether the cluster adds nodes on demand: then needs beyond its present size are not refused.
    autoscaling: bool = False
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
        """The sources by name; one without a name goes by the empty one."""
        return dict(self.sources) if self.source is None else {"": self.source}


def config_type(stages: Sequence[type[Stage]]) -> type[RunConfig]:
    """The configuration type of a job: `RunConfig` with one key under ``stages`` per stage."""
    fields: dict[str, Any] = {}
    for stage in stages:
        # Stage names have dashes and may be words like "validate" that pydantic uses itself: the
        # YAML key is an alias.
        default = None if _has_required(stage.Config) else stage.Config()
        fields[_field_name(stage.name)] = (
            stage.Config,
            Field(... if default is None else default, alias=stage.name),
        )
    section = create_model("Stages", __base__=Section, **fields)
    needed = any(_has_required(stage.Config) for stage in stages)
    default_section: Any = ... if needed else section()
    return create_model("Config", __base__=RunConfig, stages=(section, default_section))


def stage_config(config: RunConfig, stage: str) -> Any:
    """The configuration of the stage with this name."""
    return getattr(config.stages, _field_name(stage))


def _field_name(stage: str) -> str:
    return "stage_" + stage.replace("-", "_")


def _has_required(model: type[BaseModel]) -> bool:
    return any(info.is_required() for info in model.model_fields.values())
