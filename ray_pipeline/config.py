"""The configuration every job has: YAML to typed objects, overrides, and errors with the mend."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ray_pipeline.errors import UserError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.stage import Stage


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EmbedderConfig(_Section):
    """The sentence-embedding model that stages share."""

    model: str = "all-minilm-l6-v2"


class Budget(_Section):
    """Limits of a run. Money and tokens count over the whole run directory, restarts included."""

    max_cost_usd: float | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0)
    #: A whole number is a count of rows, a number below 1 a share of the source's rows.
    max_failed_rows: float = Field(0.05, ge=0)

    def failed_rows_allowed(self, source_rows: int) -> int:
        """How many rows may fail before the run stops."""
        limit = self.max_failed_rows
        return int(limit if limit >= 1 else limit * source_rows)


class ExportConfig(_Section):
    """The files of the rows that came through every stage, under ``exports/``."""

    name: str = "dataset"
    formats: list[typing.Literal["csv", "jsonl", "parquet", "hf"]] = ["csv", "jsonl"]


class RunConfig(_Section):
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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected a mapping of keys, found {type(loaded).__name__}")
    return loaded


def override(raw: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply ``a.b=value`` assignments (the value is YAML) to a copy of the raw configuration.

    Raises:
        UserError: an assignment without ``=``, or one that goes through a value.
    """
    result = _deep_copy(raw)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set {assignment}: expected KEY=VALUE, as in budget.max_cost_usd=5")
        *parents, last = key.split(".")
        section = result
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise UserError(f"--set {assignment}: {parent} is a value, not a section")
        try:
            section[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: the value is not YAML: {error}") from None
    return result


def _deep_copy(value: Any) -> Any:
    return {k: _deep_copy(v) for k, v in value.items()} if isinstance(value, dict) else value


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
    section = create_model("Stages", __base__=_Section, **fields)
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


def parse(raw: Mapping[str, Any], schema: type[RunConfig], where: str) -> RunConfig:
    """Check a raw configuration against the job's type.

    Raises:
        UserError: one line for each thing that is wrong, with the key's path, what is allowed
            and, for an unknown key, the nearest known one.
    """
    try:
        return schema.model_validate(dict(raw))
    except ValidationError as error:
        lines = [_explain(dict(item), schema) for item in error.errors()]
        raise UserError(f"{where}: " + "\n".join(lines)) from None


def _explain(error: dict[str, Any], schema: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(schema, error["loc"][:-1])
        return f"unknown key {path!r}{nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key {path!r} is missing"
    if error["type"] == "value_error":  # of our own checks: it says what was found
        return f"{path}: {error['msg'].removeprefix('Value error, ')}"
    return f"{path}: {error['msg']}, found {error['input']!r}"


def nearest(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` and the known names, for the end of an error message."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(sorted(known)) or 'none'})"


def _keys_at(model: Any, path: Sequence[Any]) -> list[str]:
    """Keys that the configuration type has at ``path``."""
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            by_key = {info.alias or name: info for name, info in model.model_fields.items()}
            model = by_key[part].annotation if part in by_key else None
        else:  # the values of dict[str, Section]
            model = (typing.get_args(model) or (None,))[-1]
        model = _section_of(model)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [info.alias or name for name, info in model.model_fields.items()]
    return []


def _section_of(annotation: Any) -> Any:
    """The model class inside ``Section | None``; other annotations as they are."""
    if isinstance(annotation, types.UnionType):
        return next((a for a in typing.get_args(annotation) if a is not type(None)), None)
    return annotation
