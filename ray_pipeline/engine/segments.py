"""Segments: the stages that commit together. Cuts a pipeline into segments, and runs map stages.

Consecutive map stages form one segment: they run in one task, in memory, and commit under the
last one's folder. Every other stage is a segment of its own, because its results are expensive.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.json_values import unchanged_field
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.rows import (
    ENVELOPE,
    KEPT,
    data_columns,
    error_reason,
    fail,
    kept,
    set_column,
)
from ray_pipeline.engine.off import Off
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import SOURCE, SOURCE_NAME, segment_folder
from ray_pipeline.stage import (
    ArtifactStage,
    AskStage,
    DecideStage,
    MapStage,
    ModelStage,
    Stage,
)


@dataclass(frozen=True)
class Segment:
    """Stages that run and commit together."""

    #: Position of the last stage in the pipeline, from 1; 0 for the source alone.
    index: int
    #: Name of the last stage.
    name: str
    stages: tuple[Stage, ...]
    #: Fingerprints of its ledger entries, each covering all stages before it.
    fingerprints: tuple[str, ...]
    reads_source: bool
    fingerprint: str

    @property
    def folder(self) -> str:
        """The segment's folder, relative to the run directory."""
        return segment_folder(self.index, self.name)

    @property
    def kind(self) -> type[Stage]:
        """Which of the five kinds of stage it runs."""
        last = self.stages[-1] if self.stages else None
        for kind in (AskStage, DecideStage, ModelStage, ArtifactStage):
            if isinstance(last, kind):
                return kind
        return MapStage

    @property
    def account_names(self) -> list[str]:
        """Names of its entries in the ledger, in order."""
        return [SOURCE] * self.reads_source + [stage.name for stage in self.stages]

    def for_source(self, source: str) -> Segment:
        """This segment for one source's rows: stages that do not work on them are off."""
        if all(works_on(stage, source) for stage in self.stages):
            return self
        stages = tuple(s if works_on(s, source) else Off(s) for s in self.stages)
        return replace(self, stages=stages)

    @property
    def has_rows(self) -> bool:
        """Whether it commits rows. A segment that makes an artifact does not: it only reads."""
        return self.kind is not ArtifactStage

    def for_workers(self) -> Segment:
        """This segment, with its stages reduced to what workers need."""
        return replace(self, stages=tuple(stage.for_workers() for stage in self.stages))

    def after(self, artifact: str) -> Segment:
        """This segment with the identity of an upstream artifact in its fingerprints.

        An artifact depends on all rows. When it changes, all parts after it must be made again,
        even those whose own rows did not change.
        """
        prints = tuple(fingerprint([print_, artifact]) for print_ in self.fingerprints)
        return replace(self, fingerprints=prints, fingerprint=prints[-1])


def cut(stages: Sequence[Stage], source_identity: object, save_every_stage: bool) -> list[Segment]:
    """Cut a pipeline into segments and give each stage its fingerprint.

    A fingerprint covers the stage's name, version and identity, and the fingerprint of its input.
    The source's fingerprint covers how it is read, but not its rows: those are part of each
    unit's id.

    Args:
        stages: all stages, in order.
        source_identity: how the source is read, as plain data.
        save_every_stage: make every stage a segment of its own.
    """
    chain = source = fingerprint({"source": source_identity})
    segments: list[Segment] = []
    group: list[tuple[Stage, str]] = []
    reads_source = True

    def close(index: int) -> None:
        nonlocal reads_source, group
        segments.append(
            Segment(
                index=index,
                name=group[-1][0].name if group else SOURCE,
                stages=tuple(stage for stage, _ in group),
                fingerprints=(source,) * reads_source + tuple(print_ for _, print_ in group),
                reads_source=reads_source,
                fingerprint=chain,
            )
        )
        group, reads_source = [], False

    for index, stage in enumerate(stages, start=1):
        alone = _is_alone(stage)
        if alone and (group or reads_source):
            close(index - 1)
        chain = fingerprint({"stage": stage_identity(stage), "input": chain})
        group.append((stage, chain))
        if alone or save_every_stage:
            close(index)
    if group or reads_source:
        close(len(stages))
    return segments


def stage_identity(stage: Stage) -> dict[str, Any]:
    """What a stage's fingerprint covers besides its input, as plain data."""
    identity = {"name": stage.name, "version": stage.version, **stage.identity()}
    if stage.sources is not None:
        identity["sources"] = sorted(stage.sources)
    return identity


def executions(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Group segments that stream together; a segment that needs all rows starts a new group."""
    groups: list[list[Segment]] = []
    for segment in segments:
        if segment.kind in (DecideStage, ArtifactStage) or not groups or not groups[-1][0].has_rows:
            groups.append([])
        groups[-1].append(segment)
    return groups


def works_on(stage: Stage, source: str) -> bool:
    """Whether a stage works on the rows of a source."""
    return stage.sources is None or source in stage.sources


def task_resources(stages: Iterable[Stage]) -> Resources:
    """Resources of a task that runs map stages or applies decisions: the most of any stage."""
    needs = [resources for stage in stages if (resources := stage.resources()) is not None]
    needs = needs or [Resources()]
    return Resources(1, max(need.cpus for need in needs), max(need.gpus for need in needs))


def _is_alone(stage: Stage) -> bool:
    return isinstance(stage, AskStage | ModelStage | DecideStage | ArtifactStage)


def run_maps(
    stages: Sequence[MapStage], rows: pa.Table, start: str | None = None, source: str = ""
) -> tuple[pa.Table, list[StageAccount]]:
    """Run map stages over the kept rows of one unit.

    Args:
        stages: in order.
        rows: kept rows with their envelope.
        start: name of the stage to begin with; None for the first.
        source: name of the unit's source; empty where it has none.

    Returns:
        All rows, whatever their status, with created rows last; and the accounts.
    """
    names = [stage.name for stage in stages]
    marked: list[pa.Table] = []
    accounts: list[StageAccount] = []
    order = rows["row_id"].combine_chunks()
    for stage in stages[names.index(start) if start else 0 :]:
        began = time.perf_counter()
        counts: Counter[str] = Counter()
        out = with_source_name(apply_map(stage, rows, counts), source)
        account = StageAccount.of(stage.name, rows, out)
        account.counts = {name: number for name, number in sorted(counts.items()) if number}
        account.seconds = time.perf_counter() - began
        accounts.append(account)
        marked.append(out.filter(pc.not_equal(out["status"], KEPT)))
        rows = kept(out)
    return in_order([*marked, rows], order), accounts


def with_source_name(rows: pa.Table, source: str) -> pa.Table:
    """The rows with the column `SOURCE_NAME` set; unchanged if the name is empty."""
    if not source:
        return rows
    return set_column(rows, SOURCE_NAME, pa.array([source] * rows.num_rows, pa.string()))


def apply_map(stage: MapStage, rows: pa.Table, counts: Counter[str]) -> pa.Table:
    """Run a map stage on a unit's rows; if it raises, run it row by row, and fail those that raise.

    Raises:
        UserError, RunError: errors that stop the run.
    """
    try:
        return checked(stage, rows, stage.apply(rows, counts))
    except (UserError, RunError):
        raise
    except Exception:
        counts.clear()
        single = [_apply_alone(stage, rows.slice(i, 1), counts) for i in range(rows.num_rows)]
        return pa.concat_tables(single, promote_options="default")


def _apply_alone(stage: MapStage, row: pa.Table, counts: Counter[str]) -> pa.Table:
    try:
        return checked(stage, row, stage.apply(row, counts))
    except Exception as error:
        return failed_row(stage, row, error)


def failed_row(stage: Stage, row: pa.Table, error: Exception) -> pa.Table:
    """The row, unchanged except that it failed with an exception that the stage raised on it."""
    row = fail(row, pa.array([True]), error_reason(error))
    return checked(stage, row, row)


def checked(stage: Stage, rows: pa.Table, out: pa.Table) -> pa.Table:
    """Check a stage's contract: no row lost or duplicated, only declared columns, valid ids.

    Args:
        stage: the stage.
        rows: its input.
        out: its output.

    Returns: ``out`` with its columns in canonical order and types, and the stage's name on the
        rows that it marked.

    Raises:
        RunError: the stage lost, duplicated or mislabelled rows, or wrote undeclared columns.
            That is a defect of the stage, so none of its rows can be trusted.
    """
    schema = schema_after(stage, rows.schema)
    out = out.drop_columns([name for name in stage.removes if name in out.column_names])
    if unknown := set(out.column_names) - set(schema.names):
        raise RunError(f"stage {stage.name!r} writes undeclared columns: {sorted(unknown)}")
    for field in schema:
        if field.name not in out.column_names:
            out = set_column(out, field.name, pa.nulls(out.num_rows, field.type))
    out = out.select(schema.names).cast(schema)

    ids = out["row_id"]
    if pc.count_distinct(ids).as_py() != out.num_rows:
        raise RunError(f"stage {stage.name!r} returned a row twice")
    came_in = pc.is_in(ids, rows["row_id"].combine_chunks())
    if pc.sum(came_in).as_py() != rows.num_rows and rows.num_rows:
        raise RunError(f"stage {stage.name!r} lost rows: {rows.num_rows} in, {pc.sum(came_in)} out")
    if pc.any(pc.and_(pc.invert(came_in), pc.is_null(out["parent_id"]))).as_py():
        raise RunError(f"stage {stage.name!r} created a row without parent_id")
    marked = pc.and_(pc.not_equal(out["status"], KEPT), pc.is_null(out["stage"]))
    return set_column(out, "stage", pc.if_else(marked, stage.name, out["stage"]))


def schema_after(stage: Stage, before: pa.Schema) -> pa.Schema:
    """The schema after a stage: the data columns, those that it writes, and the envelope."""
    gone = {*ENVELOPE.names, *stage.removes}
    fields = {f.name: unchanged_field(f) for f in before if f.name not in gone}
    fields |= {name: pa.field(name, kind) for name, kind in stage.writes.items()}
    return pa.schema([*fields.values(), *ENVELOPE])


def schema_before(stage_index: int, segment: Segment, schema: pa.Schema) -> pa.Schema:
    """The input schema of a segment's stage.

    Args:
        stage_index: position of the stage in the segment, from 0.
        segment: the segment.
        schema: the input schema of the segment.
    """
    for stage in segment.stages[:stage_index]:
        schema = schema_after(stage, schema)
    return schema


def in_order(tables: Sequence[pa.Table], order: pa.Array) -> pa.Table:
    """Concatenate tables, and sort the rows as ``order`` lists their ids; other rows come last."""
    out = pa.concat_tables(tables, promote_options="default")
    # A column that only later tables have was appended after the envelope: restore the order.
    out = out.select([*data_columns(out), *ENVELOPE.names])
    position = pc.fill_null(pc.index_in(out["row_id"], order), len(order))
    return out.take(pc.sort_indices(position)) if out.num_rows else out
