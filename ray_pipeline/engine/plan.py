"""`plan`: what a run would do and cost, estimated on a sample of rows without model requests."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_pipeline.core.arrow_types import python_rows
from ray_pipeline.core.rows import ENVELOPE_COLUMNS, kept, set_column
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.artifacts import check_stages
from ray_pipeline.engine.cluster import check_resources, nodes_at
from ray_pipeline.engine.prepare import Prepared, prepare
from ray_pipeline.engine.reuse import RunState, run_state
from ray_pipeline.engine.run import Job
from ray_pipeline.engine.segments import apply_map, with_source_name, works_on
from ray_pipeline.llm.asker import RequestTemplate
from ray_pipeline.llm.asking import Answer
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import Request
from ray_pipeline.rundir.layout import SOURCE, part_path
from ray_pipeline.rundir.parts import read_rows
from ray_pipeline.rundir.units import Unit
from ray_pipeline.sources.read import read_unit
from ray_pipeline.stage import ArtifactStage, AskStage, MapStage, ModelStage, Stage

#: Maximum number of sampled rows of each source.
SAMPLE_ROWS = 1_000


@dataclass
class StagePlan:
    """What one stage would do. Its numbers of rows, requests and tokens are estimates."""

    name: str
    #: ``reused``; ``run``; or ``unknown`` where the numbers cannot be estimated before it runs.
    action: str
    rows_in: int
    requests: int = 0
    prompt_tokens: int = 0
    #: An upper bound: as if every answer had the maximum length.
    completion_tokens: int = 0
    max_cost_usd: float | None = None
    #: A remark on its rows or its work, for display.
    note: str | None = None
    #: What the user should know of the source's files, a sentence each.
    notes: tuple[str, ...] = ()


def plan(job: Job, until: str | None = None) -> list[StagePlan]:
    """Check everything that a run would check, and estimate what it would do. Writes nothing.

    Args:
        job: the job to plan.
        until: the last stage; None: the one that the configuration names.

    Raises:
        UserError: the run would be refused: wrong configuration or input, or too small a cluster.
    """
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(job.config, job.stages, job.prompt_folders, scratch, until)
        storage = Storage(job.config.run_dir)
        state = run_state(storage, prepared)
        if state.remaining:
            check_stages(state.remaining)
            nodes = nodes_at(job.config.address, Path(scratch) / "ray.log")
            check_resources(state.remaining, job.config.llms, nodes, job.config.autoscaling)
        return make_plan(prepared, storage, state)


def make_plan(prepared: Prepared, storage: Storage, state: RunState) -> list[StagePlan]:
    """Estimate what a run would do at every stage, reading the source included.

    Args:
        prepared: the checked run.
        storage: its run directory, which need not exist.
        state: its complete segments, see `ray_pipeline.engine.reuse.run_state`.
    """
    accounts = [account for _, done in state.complete for account in done.accounts]
    plans = [StagePlan(account.name, "reused", account.rows_in) for account in accounts]
    if not plans:
        plans.append(StagePlan(SOURCE, "run", prepared.survey.rows))
    plans[0].note = _by_source(prepared)
    plans[0].notes = (*prepared.survey.notes, *state.news())
    samples = _samples(prepared, storage, state)
    artifacts = False
    for stage in prepared.stages[len(plans) - 1 :]:
        plan = StagePlan(stage.name, "run", round(sum(sample.estimate for sample in samples)))
        plans.append(plan)
        mine = [sample for sample in samples if works_on(stage, sample.source)]
        lacks_values = any(set(stage.needs) - sample.computed for sample in mine)
        if isinstance(stage, AskStage):
            for sample in mine:
                _estimate_requests(prepared, stage, sample, plan)
        elif isinstance(stage, ModelStage) and artifacts:
            plan.action = "unknown"  # its model may be one that this run has yet to train
        elif lacks_values or (isinstance(stage, ModelStage) and not stage.in_plan):
            pass
        elif isinstance(stage, MapStage):
            if isinstance(stage, ModelStage):
                stage.load()
            for sample in mine:
                sample.apply(stage)
        elif isinstance(stage, ArtifactStage):
            artifacts = True
            plan.note = _estimate_work(stage, mine)
        else:
            plan.action = "unknown"
        for sample in samples:
            sample.add_columns(stage)
    return plans


def _by_source(prepared: Prepared) -> str | None:
    rows = prepared.survey.rows_by_source
    return None if "" in rows else ", ".join(f"{name} {n:,} rows" for name, n in rows.items())


@dataclass
class _Sample:
    """A sample of a source's rows, as they enter a stage."""

    source: str
    rows: pa.Table
    #: Rows of the source for each row of the sample.
    scale: float
    #: Columns with computed values; columns of stages that were skipped are null.
    computed: set[str]

    @property
    def estimate(self) -> float:
        """The estimated number of rows of the source that enter the stage."""
        return self.rows.num_rows * self.scale

    def apply(self, stage: MapStage) -> None:
        """Run a stage on the sample."""
        self.computed |= set(stage.writes)
        self.rows = kept(with_source_name(apply_map(stage, self.rows, Counter()), self.source))

    def add_columns(self, stage: Stage) -> None:
        """Add a skipped stage's columns as nulls, because later stages may read them."""
        for name, kind in stage.writes.items():
            if name not in self.rows.column_names:
                nulls = pa.nulls(self.rows.num_rows, kind)
                self.rows = set_column(self.rows, name, nulls)


def _samples(prepared: Prepared, storage: Storage, state: RunState) -> list[_Sample]:
    """A sample of each source's rows, as they enter the first stage to run.

    It is taken from units spread evenly over the source: from the rows that the last complete
    segment kept or, without one, from the source itself.
    """
    by_source: dict[str, list[Unit]] = {}
    for unit in prepared.survey.units:
        by_source.setdefault(unit.source, []).append(unit)
    with_rows = next((pair for pair in reversed(state.complete) if pair[0].has_rows), None)
    damaged = state.damages.get(with_rows[0].folder, {}) if with_rows else {}
    samples = []
    for source, all_units in by_source.items():
        # Without a unit that is whole, the damage is the message.
        units = [unit for unit in all_units if unit.unit_id not in damaged] or all_units
        wanted = max(1, min(len(units), SAMPLE_ROWS // max(1, units[0].rows)))
        chosen = [units[i * len(units) // wanted] for i in range(wanted)]
        if with_rows:
            segment, done = with_rows
            paths = [part_path(segment.folder, unit.unit_id) for unit in chosen]
            rows = pa.concat_tables([kept(read_rows(storage, path)) for path in paths])
            last = done.accounts[-1]
            total = last.sources[source]["kept"] if source else last.kept
        else:
            rows = pa.concat_tables([read_unit(unit, prepared.survey.spec) for unit in chosen])
            total = sum(unit.rows for unit in all_units)
        rows = rows.slice(0, SAMPLE_ROWS)
        scale = total / max(1, rows.num_rows)
        samples.append(_Sample(source, kept(rows), scale, set(rows.column_names)))
    return samples


def _estimate_work(stage: ArtifactStage, samples: Sequence[_Sample]) -> str | None:
    rows = pa.concat_tables([sample.rows for sample in samples], promote_options="default")
    scale = sum(sample.estimate for sample in samples) / max(1, rows.num_rows)
    return stage.estimate(rows, scale)


def _estimate_requests(
    prepared: Prepared, stage: AskStage, sample: _Sample, plan: StagePlan
) -> None:
    """Add the requests that the stage would send for a source's rows, with tokens and cost."""
    name = stage.config.llm
    config = prepared.config.llms[name]
    template = RequestTemplate(stage.name, config, prepared.revisions[name], prepared.config.seed)
    tokens = [
        config.engine_type.request_tokens(config, request)
        for row in python_rows(sample.rows)
        if (request := _first_request(stage, row, template))
    ]
    plan.requests += round(len(tokens) * sample.scale)
    plan.prompt_tokens += round(sum(t.prompt for t in tokens) * sample.scale)
    plan.completion_tokens += round(sum(t.completion for t in tokens) * sample.scale)
    if config.usd_per_million is not None:
        plan.max_cost_usd = config.usd_per_million.cost(plan.prompt_tokens, plan.completion_tokens)


class _FirstRequest(Exception):
    """Ends a stage's coroutine at its first request, and carries that request."""

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
        raise _FirstRequest(template.request(prompt, prompt.render(**values), sample))

    try:
        asyncio.run(_run_ask(stage, data, llm))
    except _FirstRequest as stopped:
        return stopped.request
    return None


async def _run_ask(stage: AskStage, data: dict[str, Any], llm: Any) -> None:
    await stage.ask(data, llm)
