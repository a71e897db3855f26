"""Checks and resolves everything before anything runs; shared by `plan` and `run`."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.file_names import is_file, shown
from ray_pipeline.core.json_values import json_columns
from ray_pipeline.core.rows import ENVELOPE
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.config import RunConfig, stage_config
from ray_pipeline.engine.exports import check_export_names, check_formats
from ray_pipeline.engine.off import Off
from ray_pipeline.engine.segments import Segment, cut, schema_after, works_on
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.models.packaged import is_hub_id
from ray_pipeline.rundir.layout import SOURCE_NAME
from ray_pipeline.rundir.pinned import PinnedModels
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.survey import SourceRequest, Survey, survey_all
from ray_pipeline.stage import AskStage, Settings, Stage


@dataclass(frozen=True)
class Prepared:
    """A run whose configuration, models, prompts and sources have been checked and resolved."""

    config: RunConfig
    stages: list[Stage]
    segments: list[Segment]
    #: Schema of each segment's input, the envelope included.
    input_schemas: list[pa.Schema]
    survey: Survey
    prompts: Mapping[str, Prompt]
    #: The folder or hub id of each language model, and the identity of its weights, by its name.
    models: dict[str, str]
    revisions: dict[str, str]
    #: The identity of every model's weights by its name, those of earlier starts included.
    identities: dict[str, str]


def prepare(
    config: RunConfig,
    stages: Sequence[Stage],
    prompt_folders: Sequence[Path],
    scratch: str,
    until: str | None = None,
) -> Prepared:
    """Resolve models, keys and prompts, survey the sources, and cut the pipeline into segments.

    Args:
        config: the checked configuration.
        stages: the job's stages, in order.
        prompt_folders: folders to search for prompts, in order.
        scratch: folder or URI for copies of sources that cannot be read from the middle.
        until: the last stage to run; None: the one that the configuration names.

    Raises:
        UserError: the configuration or the input is wrong, in a way that would stop the run later.
    """
    configured = [stage.bound(stage_config(config, stage.name)) for stage in stages]
    settings = Settings(
        seed=config.seed,
        stages=configured,
        run_dir=config.run_dir,
        for_spreadsheets=config.export.for_spreadsheets,
    )
    chosen = [
        stage.bound(stage.config, settings) for stage in _until(configured, until or config.until)
    ]
    _check_stages_needed(chosen)
    # A stage that is turned off needs no model, no prompt and no key.
    active = [stage for stage in chosen if not stage.is_off]
    used = _llms_used(config, active)
    pinned = PinnedModels(Storage(config.run_dir))
    resolved, revisions = _resolve_llms(config, used, pinned)
    embedder = embedder_revision = None
    if any(stage.uses_embedder for stage in active):
        embedder, embedder_revision = pinned.resolve(config.embedder.model, "embedder.model")
    prompts = {
        name: Prompt.load(_find_prompt(name, prompt_folders, where))
        for where, name in _prompts_used(active)
    }
    later = [stage for stage in configured[len(chosen) :] if not stage.is_off]
    stage_models, stage_revisions = _resolve_stage_models(active, later, pinned)
    settings = replace(
        settings,
        embedder=embedder,
        embedder_revision=embedder_revision,
        prompts=prompts,
        llms={name: config.llms[name].identity_with(revisions[name]) for name in used},
        models=stage_models,
        revisions=stage_revisions,
    )
    to_run = [
        Off(stage) if stage.is_off else stage.bound(stage.config, settings) for stage in chosen
    ]
    check_export_names(config.export.name, config.export.formats, to_run)
    _check_variables(to_run, prompts, prompt_folders)
    _check_sources(to_run, list(config.all_sources))
    requests = {n: _source_request(n, source, to_run) for n, source in config.all_sources.items()}
    surveyed = survey_all(requests, config.unit_rows, scratch)
    _check_needs(to_run, surveyed.schema)
    is_local = Storage(config.run_dir).is_local
    check_formats(surveyed.schema, config.export.formats, to_run, is_local)
    segments = cut(to_run, _source_identity(config, surveyed.schema), config.save_every_stage)
    schemas = _input_schemas(segments, surveyed.schema)
    return Prepared(
        config,
        to_run,
        segments,
        schemas,
        surveyed,
        prompts,
        resolved,
        revisions,
        pinned.identities,
    )


def _until(stages: Sequence[Stage], until: str | None) -> list[Stage]:
    if until is None:
        return list(stages)
    names = [stage.name for stage in stages]
    if until not in names:
        raise UserError(f"until {until}: the job has no such stage{nearest(until, names)}")
    return list(stages[: names.index(until) + 1])


def _check_stages_needed(stages: Sequence[Stage]) -> None:
    """Check that the stages that each stage needs come before it and are turned on."""
    for position, stage in enumerate(stages):
        for kind in () if stage.is_off else stage.needs_stages:
            before = [other for other in stages[:position] if isinstance(other, kind)]
            if not before:
                raise UserError(
                    f"stages.{stage.name} needs a stage {kind.__name__} before it: put one there, "
                    "in the job's list of stages"
                )
            if before[-1].is_off:
                raise UserError(
                    f"stages.{stage.name} needs stages.{before[-1].name}, and that is turned off: "
                    "turn it on"
                )


def _llms_used(config: RunConfig, stages: Sequence[Stage]) -> list[str]:
    asking = [stage for stage in stages if isinstance(stage, AskStage)]
    for stage in asking:
        if (llm := stage.config.llm) not in config.llms:
            hint = nearest(llm, list(config.llms))
            raise UserError(f"stages.{stage.name}.llm: no model {llm!r} under llms{hint}")
    return sorted({stage.config.llm for stage in asking})


def _resolve_llms(
    config: RunConfig, used: Sequence[str], pinned: PinnedModels
) -> tuple[dict[str, str], dict[str, str]]:
    resolved, revisions = {}, {}
    for name in used:
        llm = config.llms[name]
        llm.check_environment(f"llms.{name}")
        llm.engine_type.check(name, llm)
        if llm.engine_type.is_local:
            where = f"llms.{name}.model"
            resolved[name], revisions[name] = pinned.resolve(llm.model, where, llm.revision)
        else:
            resolved[name], revisions[name] = llm.model, llm.revision or ""
    return resolved, revisions


def _resolve_stage_models(
    stages: Sequence[Stage], later: Sequence[Stage], pinned: PinnedModels
) -> tuple[dict[str, str], dict[str, str]]:
    """The models that stages name themselves: the folder or hub id, and the identity, by name.

    Those of stages after the last one to run get their commit now, too, if they have one.
    """
    resolved, revisions = {}, {}
    for stage in later:
        for name in filter(is_hub_id, stage.models.values()):
            with contextlib.suppress(UserError):
                resolved[name], revisions[name] = pinned.resolve(name, f"stages.{stage.name}")
    for stage in stages:
        for key, name in stage.models.items():
            if name not in resolved:
                where = f"stages.{stage.name}.{key}"
                resolved[name], revisions[name] = pinned.resolve(name, where)
    return resolved, revisions


def _prompts_used(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    return [
        (f"stages.{stage.name}.prompt", stage.config.prompt)
        for stage in stages
        if isinstance(stage, AskStage)
    ]


def _find_prompt(name: str, folders: Sequence[Path], where: str) -> Path:
    candidates = [Path(name)] if name.endswith((".yaml", ".yml")) else []
    candidates += [folder / f"{name}.yaml" for folder in folders]
    for path in candidates:
        if is_file(path):
            return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise UserError(f"{where}: no prompt {shown(name)}{nearest(name, known)}")


def _check_variables(
    stages: Sequence[Stage], prompts: Mapping[str, Prompt], folders: Sequence[Path]
) -> None:
    """Check that each stage passes all variables of its prompt: otherwise every row would fail."""
    for stage in stages:
        if not isinstance(stage, AskStage) or stage.variables is None:
            continue
        prompt = stage.config.prompt
        for name in sorted(prompts[prompt].variables() - set(stage.variables)):
            path = _find_prompt(prompt, folders, f"stages.{stage.name}.prompt")
            hint = nearest(name, stage.variables)
            raise UserError(f"prompt {path}: stages.{stage.name} passes no {name!r} to it{hint}")


def _check_sources(stages: Sequence[Stage], names: Sequence[str]) -> None:
    """Check that the sources that stages are limited to exist, and that no stage changes the
    column with the source's name.
    """
    for stage in stages:
        for source in sorted(set(stage.sources or ()) - set(names)):
            known = [name for name in names if name]
            hint = nearest(source, known) if known else ": name it there, instead of 'source'"
            raise UserError(
                f"stages.{stage.name} works on the rows of the source {source!r}, which is not "
                f"under sources{hint}"
            )
        if any(names) and SOURCE_NAME in {*stage.writes, *stage.removes}:
            raise UserError(
                f"stages.{stage.name} changes the column {SOURCE_NAME!r}, which says where a row "
                "comes from: give the stage's column another name"
            )


def _source_request(name: str, source: SourceConfig, stages: Sequence[Stage]) -> SourceRequest:
    """The survey request for a source, with the columns that its files must have."""
    required = _required(name, stages)
    return SourceRequest(
        source, required, {column: _hint(column, name, stages) for column in required}
    )


def _required(source: str, stages: Sequence[Stage]) -> dict[str, pa.DataType]:
    """Columns that a source must have: those read by a stage before any stage writes them.

    Stages that do not work on this source's rows are ignored.
    """
    required: dict[str, pa.DataType] = {}
    written: set[str] = {SOURCE_NAME} if source else set()
    for stage in stages:
        if not works_on(stage, source):
            continue
        for name, kind in stage.reads_of(source).items():
            if name not in written:
                required.setdefault(name, kind)
        written |= set(stage.writes) - set(required)
    return required


def _hint(name: str, source: str, stages: Sequence[Stage]) -> str:
    """The end of the message about a missing column: the stage that reads it, and a similar name.

    Args:
        name: the column.
        source: name of the source that lacks it.
        stages: the stages to run.
    """
    reader = next(
        i
        for i, stage in enumerate(stages)
        if works_on(stage, source) and name in stage.reads_of(source)
    )
    before = stages[:reader]
    hint = f"; stages.{stages[reader].name} reads it"
    for stage in before:
        if name in stage.writes and not works_on(stage, source):
            return f"{hint}, and stages.{stage.name} writes it for other sources only"
    written = {column: stage.name for stage in before for column in stage.writes}
    close = difflib.get_close_matches(name, written, n=1, cutoff=0.6)
    return hint + (f": did you mean {close[0]!r}, of stages.{written[close[0]]}?" if close else "")


def _check_needs(stages: Sequence[Stage], source: pa.Schema) -> None:
    """Check that no stage needs values that a stage that is turned off would have written."""
    available = set(source.names)
    off: dict[str, str] = {}
    for stage in stages:
        for column in sorted(stage.needs):
            if column in off and column not in available:
                raise UserError(
                    f"stages.{stage.name} needs {column!r}, which stages.{off[column]} writes, and "
                    "that is turned off: turn it on, or do without the column"
                )
        if isinstance(stage, Off):
            off |= dict.fromkeys(stage.writes, stage.name)
        else:
            available |= set(stage.writes)


def _source_identity(config: RunConfig, schema: pa.Schema) -> dict[str, Any]:
    """What the fingerprints cover of the sources: how they are read, and their columns.

    Their rows are covered by the units' ids. A file that adds a column changes the table of every
    unit, so all units run again (and reuse the responses that are already stored).
    """
    sources = {
        name: {
            "columns": source.columns,
            "delimiter": source.delimiter,
            "encoding": source.encoding,
            **({} if source.nested == "fail" else {"nested": source.nested}),
        }
        for name, source in config.all_sources.items()
    }
    # An unnamed source keeps the identity from before named sources existed: old runs stay valid.
    how = sources.get("", {"sources": sources})
    identity = {**how, "schema": [[field.name, str(field.type)] for field in schema]}
    # Such columns were stored in another way once, so runs that have any start again.
    values = json_columns(schema)
    return {**identity, "json_values": values} if values else identity


def _input_schemas(segments: Sequence[Segment], source: pa.Schema) -> list[pa.Schema]:
    schema = pa.schema([*source, *ENVELOPE])
    schemas = []
    for segment in segments:
        schemas.append(schema)
        for stage in segment.stages:
            schema = schema_after(stage, schema)
    return schemas
