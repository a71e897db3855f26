"""The configuration every job has, and the type that a job's stages make of it."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, create_model

from ray_pipeline.core.config import (
    Section,
)
from ray_pipeline.llm.config import (
    Budget,
    LlmConfig,
)
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.stage import Stage


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
    source: SourceConfig
    llms: dict[str, LlmConfig] = {}
    embedder: EmbedderConfig = EmbedderConfig()
    budget: Budget = Budget()
    export: ExportConfig = ExportConfig()
    #: Ray cluster to join; None: the one that runs here, else a new one on this machine.
    address: str | None = None
    #: Whether the cluster adds nodes on demand: then needs beyond its present size are not refused.
    autoscaling: bool = False
    stages: Any = {}


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
