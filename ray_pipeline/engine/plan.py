"""`plan`: what a run would do and cost, from a sample of the rows and without asking any model."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_pipeline.core.rows import ENVELOPE_COLUMNS, kept, set_column
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.artifacts import check_artifacts
from ray_pipeline.engine.cluster import check_resources, nodes_at
from ray_pipeline.engine.prepare import Prepared, prepare
from ray_pipeline.engine.reuse import RunState, run_state
from ray_pipeline.engine.run import Job
from ray_pipeline.engine.segments import Segment, apply_map
from ray_pipeline.llm.asker import RequestTemplate
from ray_pipeline.llm.asking import Answer
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import Request
from ray_pipeline.rundir.layout import SOURCE, part_path
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.rundir.parts import read_rows
from ray_pipeline.sources.read import read_unit
from ray_pipeline.stage import ArtifactStage, AskStage, MapStage, ModelStage, Stage

#: Rows that the estimate stands on, at most.
SAMPLE_ROWS = 1_000


@dataclass
class StagePlan:
    """What one stage would do. Numbers of rows, requests and tokens are estimates."""

    name: str
    #: ``reused``, ``run``, or ``unknown`` where the numbers are not known before it runs.
    action: str
    rows_in: int
    requests: int = 0
    prompt_tokens: int = 0
    #: At most: as if each answer were as long as it may be.
    completion_tokens: int = 0
    max_cost_usd: float | None = None
    #: What else there is to say about its cost.
    note: str | None = None


def plan(job: Job, until: str | None = None) -> list[StagePlan]:
    """Check all that a run would check, and say what it would do; nothing is run or written.

    Args:
        job: what would run.
        until: the last stage; None: the one that the configuration names.

    Raises:
        UserError: what would stop the run: the configuration, the input, or a cluster too small.
    """
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(job.config, job.stage_types, job.prompt_folders, scratch, until)
        storage = Storage(job.config.run_dir)
        state = run_state(storage, prepared)
        if state.remaining:
            check_artifacts(state.remaining)
            nodes = nodes_at(job.config.address, Path(scratch) / "ray.log")
            check_resources(state.remaining, job.config.llms, nodes, job.config.autoscaling)
        return make_plan(prepared, storage, state)


def make_plan(prepared: Prepared, storage: Storage, state: RunState) -> list[StagePlan]:
    """Say of every stage, from the reading of the source on, what a run would do.

    Args:
        prepared: the checked run.
        storage: its run directory, which need not exist.
        state: what is complete there, see `ray_pipeline.engine.reuse.run_state`.
    """
    accounts = [account for _, done in state.complete for account in done.accounts]
    plans = [StagePlan(account.name, "reused", account.rows_in) for account in accounts]
    if not plans:
        plans.append(StagePlan(SOURCE, "run", prepared.survey.rows))
    rows, scale = _sample(prepared, storage, state.complete)
    artifacts = False
    there = set(rows.column_names)  # with their values
    for stage in prepared.stages[len(plans) - 1 :]:
        plan = StagePlan(stage.name, "run", round(rows.num_rows * scale))
        plans.append(plan)
        if isinstance(stage, AskStage):
            _estimate_requests(prepared, stage, rows, scale, plan)
            rows = _with_columns(rows, stage)
        elif isinstance(stage, ModelStage) and artifacts:
            plan.action = "unknown"  # its model may be one that is only made on the way
            rows = _with_columns(rows, stage)
        elif (isinstance(stage, ModelStage) and not stage.in_plan) or set(stage.needs) - there:
            rows = _with_columns(rows, stage)
        elif isinstance(stage, MapStage):
            there |= set(stage.writes)
            rows = kept(_apply(stage, rows))
        elif isinstance(stage, ArtifactStage):
            artifacts = True
            plan.note = stage.estimate(rows, scale)
        else:
            plan.action = "unknown"
            rows = _with_columns(rows, stage)
    return plans


def _with_columns(rows: pa.Table, stage: Stage) -> pa.Table:
    """The rows with the columns that the stage would add, empty: later stages may read them."""
    for name, kind in stage.writes.items():
        if name not in rows.column_names:
            rows = set_column(rows, name, pa.nulls(rows.num_rows, kind))
    return rows


def _sample(
    prepared: Prepared, storage: Storage, complete: Sequence[tuple[Segment, Done]]
) -> tuple[pa.Table, float]:
    """Rows that come into the first stage to run, and how many each of them stands for.

    They are of units spread evenly over the source: as the last complete segment kept them, or
    from the source itself.
    """
    units = prepared.survey.units
    wanted = max(1, min(len(units), SAMPLE_ROWS // max(1, units[0].rows)))
    chosen = [units[i * len(units) // wanted] for i in range(wanted)]
    with_rows = [(segment, done) for segment, done in complete if segment.has_rows]
    if with_rows:
        segment, done = with_rows[-1]
        paths = [part_path(segment.folder, unit.unit_id) for unit in chosen]
        rows = pa.concat_tables([kept(read_rows(storage, path)) for path in paths])
        of = done.accounts[-1].kept
    else:
        rows = pa.concat_tables([read_unit(unit, prepared.survey.spec) for unit in chosen])
        of = prepared.survey.rows
    rows = rows.slice(0, SAMPLE_ROWS)
    return kept(rows), of / max(1, rows.num_rows)


def _apply(stage: MapStage, rows: pa.Table) -> pa.Table:
    if isinstance(stage, ModelStage):
        stage.load()
    return apply_map(stage, rows, Counter())


def _estimate_requests(
    prepared: Prepared, stage: AskStage, rows: pa.Table, scale: float, plan: StagePlan
) -> None:
    name = stage.config.llm
    config = prepared.config.llms[name]
    template = RequestTemplate(stage.name, config, prepared.revisions[name], prepared.config.seed)
    tokens = [
        config.engine_type.request_tokens(config, request)
        for row in rows.to_pylist()
        if (request := _first_request(stage, row, template))
    ]
    plan.requests = round(len(tokens) * scale)
    plan.prompt_tokens = round(sum(t.prompt for t in tokens) * scale)
    plan.completion_tokens = round(sum(t.completion for t in tokens) * scale)
    if config.usd_per_million is not None:
        plan.max_cost_usd = config.usd_per_million.cost(plan.prompt_tokens, plan.completion_tokens)


class _Asked(Exception):
    """Ends a stage's coroutine at its first request."""

    def __init__(self, request: Request) -> None:
        self.request = request


def _first_request(
    stage: AskStage, row: dict[str, Any], template: RequestTemplate
) -> Request | None:
    """The stage's first request about a row; None if it would send none."""
    data = {name: value for name, value in row.items() if name not in ENVELOPE_COLUMNS}

    async def llm(
        prompt: Prompt,
        /,
        *,
        check: Callable[[str], str | None] | None = None,
        sample: int = 0,
        **values: Any,
    ) -> Answer:
        raise _Asked(template.request(prompt, prompt.render(**values), sample))

    try:
        asyncio.run(_until_asked(stage, data, llm))
    except _Asked as asked:
        return asked.request
    return None


async def _until_asked(stage: AskStage, data: dict[str, Any], llm: Any) -> None:
    await stage.ask(data, llm)
