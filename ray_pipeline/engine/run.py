"""Runs a job: takes the lock, runs the segments, and writes the ledger."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import ray
import yaml

from ray_pipeline.core.errors import LockLost, RunError, UserError, cause_in_words, first_line
from ray_pipeline.core.hashing import set_digest
from ray_pipeline.core.shares import in_words
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine import cluster
from ray_pipeline.engine.artifacts import Artifact, check_stages
from ray_pipeline.engine.config import RunConfig
from ray_pipeline.engine.coordinator import (
    CoordinatorHandle,
    Stop,
    StopKind,
    end_coordinator,
    start_coordinator,
)
from ray_pipeline.engine.decide import decide
from ray_pipeline.engine.exports import export_dataset, export_stages
from ray_pipeline.engine.log_file import run_log
from ray_pipeline.engine.prepare import Prepared, prepare
from ray_pipeline.engine.progress import Discreet, Display, Tally
from ray_pipeline.engine.reuse import RunState, run_state, still_made
from ray_pipeline.engine.run_ledger import RunLedger, committed_infos
from ray_pipeline.engine.segments import Segment, executions, stage_identity, works_on
from ray_pipeline.engine.stalls import StallWatch
from ray_pipeline.engine.streaming import Execution
from ray_pipeline.engine.stuck import StuckUnits, row_seconds
from ray_pipeline.engine.unit import FromSegment, FromSource, SegmentJob
from ray_pipeline.engine.waits import PauseNews
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.environment import environment
from ray_pipeline.rundir.journal_lines import Damage, damages_in_words
from ray_pipeline.rundir.layout import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LOG_FILE,
    PROMPTS,
)
from ray_pipeline.rundir.ledger import Done, Ledger
from ray_pipeline.rundir.lock import held, run_lock
from ray_pipeline.rundir.manifest import write_recorded
from ray_pipeline.rundir.parts import PartInfo, existing_infos, sweep_parts
from ray_pipeline.rundir.pinned import MODELS_KEY
from ray_pipeline.rundir.responses import recorded_units
from ray_pipeline.rundir.units import write_units
from ray_pipeline.rundir.unreadable import telling
from ray_pipeline.stage import AskStage, DecideStage, Stage

_log = logging.getLogger("ray_pipeline")

#: Seconds between polls of a running execution, and between saves of the live ledger.
_POLL = 0.5
_SAVE = 2.0
#: Seconds that requests in flight may take to finish when the run stops.
_GRACE = 20.0


@dataclass(frozen=True)
class Job:
    """A pipeline with its configuration."""

    config: RunConfig
    stages: Sequence[Stage]
    prompt_folders: Sequence[Path]


def run(job: Job, display: Display, *, until: str | None = None, retry: bool = False) -> Ledger:
    """Run a job to its end, or until it has to stop; finished work is kept either way.

    Args:
        job: the job.
        display: receives the progress.
        until: the last stage to run; None: the one that the configuration names.
        retry: run failed rows of committed units again.

    Returns:
        The ledger, as saved in the run directory; its status says how the run ended.

    Raises:
        UserError: the configuration or the input is wrong; nothing was started.
        LockLost: another run has taken the directory; its ledger is that run's.
    """
    config, display = job.config, Discreet(display)
    storage = Storage(config.run_dir)
    ledger = Ledger(run=storage.uri())
    with run_lock(storage, display.say) as run_id, telling(display.say):
        storage = held(storage, run_id)
        with ledger.timed("prepare"):
            prepared = prepare(config, job.stages, job.prompt_folders, storage.uri("source"), until)
        _describe(storage, prepared)
        ledger.notes = list(prepared.survey.notes)
        for note in ledger.notes:
            display.say(f"source: {note}")
        with run_log(storage, display.say) as log_file:
            run_ledger = RunLedger(storage, prepared, ledger, display.say)
            runner = _Runner(storage, prepared, display, run_ledger, retry, log_file, run_id)
            return runner.run()


def _describe(storage: Storage, prepared: Prepared) -> None:
    """Write the inputs of the run: its configuration, prompts, environment and units."""
    config = prepared.config.model_dump(mode="json", by_alias=True)
    files = {CONFIG_FILE: yaml.safe_dump(config, sort_keys=False).encode()}
    about = environment(prepared.config.seed) | {MODELS_KEY: prepared.identities}
    files[ENVIRONMENT_FILE] = orjson.dumps(about, option=orjson.OPT_INDENT_2)
    for prompt in prepared.prompts.values():
        files[f"{PROMPTS}/{prompt.name}.yaml"] = prompt.to_yaml().encode()
    write_recorded(storage, files)
    write_units(storage, prepared.survey.units)


class _Runner:
    """Runs the segments of a run, one execution after another."""

    #: Started with the first segment that has work to do.
    _coordinator: CoordinatorHandle

    def __init__(
        self,
        storage: Storage,
        prepared: Prepared,
        display: Display,
        ledger: RunLedger,
        retry: bool,
        log_file: Path,
        run_id: str,
    ) -> None:
        self._run_id = run_id
        self._log_file = log_file
        self._storage = storage
        self._prepared = prepared
        self._display = display
        self._retry = retry
        self._units = prepared.survey.units
        self._unit_ids = [unit.unit_id for unit in self._units]
        self._ledger = ledger
        self._state = RunState(prepared.segments, self._unit_ids)
        #: Footers of the parts of the segment that was closed last, by its folder.
        self._closed: dict[str, list[PartInfo]] = {}
        self._exports = ledger.exports
        self._allowed = prepared.config.budget.failed_rows_allowed(prepared.survey.rows)

    def run(self) -> Ledger:
        ledger = self._ledger
        ledger.start()
        try:
            self._run_segments()
            ledger.of_run.check()
            export = self._prepared.config.export
            with self._ledger.of_run.timed("exports"):
                last = [s for s in self._state.segments if s.has_rows][-1]
                without = {name for stage in self._prepared.stages for name in stage.internal}
                export_dataset(
                    self._storage,
                    last,
                    self._unit_ids,
                    export.name,
                    export.formats,
                    self._exports,
                    without,
                )
            if (failure := self._exports.failure) is not None:
                raise RunError(failure)
            ledger.end("succeeded")
        except LockLost:
            raise  # the ledger is another run's
        except _Stopped as stopped:
            ledger.end(stopped.stop.kind, stopped.stop.message)
        except RunError as error:
            ledger.end("failed", str(error))
        except KeyboardInterrupt:
            ledger.end("interrupted", "stopped by the user")
        except UserError as error:
            # The caller reports it, but the ledger must not say "running".
            with contextlib.suppress(RunError):
                ledger.end("failed", str(error))
            raise
        except Exception as error:
            # A defect of ours or of Ray, or a lost cluster. The user sees one line, and the
            # traceback is in the log.
            _log.exception("the run ended unexpectedly")
            what = f"{type(error).__name__}: {first_line(error)}"
            if isinstance(error, ray.exceptions.RayError):
                what = cause_in_words(error)
            ledger.end("failed", f"{what} ({LOG_FILE} has the rest)")
        return ledger.of_run

    def _run_segments(self) -> None:
        found = run_state(self._storage, self._prepared, self._retry)
        self._ledger.state = self._state
        for line in found.news():
            self._tell_damage(line)
        for segment, done in found.complete:
            if segment.folder in found.damages:
                break
            self._reuse(segment, done)
        waiting = found.complete[len(self._state.complete) :]
        remaining = [s for s, _ in waiting if s.folder in found.damages] + found.remaining
        if not remaining:
            return
        check_stages(remaining)
        config = self._prepared.config
        cluster.check_servers(remaining, config.llms, self._display.say)
        with cluster.joined(
            config.address, self._log_file, self._display.say, self._ended_by_interrupt
        ):
            cluster.check_resources(
                remaining, config.llms, cluster.nodes_of_cluster(), config.autoscaling
            )
            self._coordinator = start_coordinator(
                self._storage, config.budget, config.llms, self._prepared.models
            )
            try:
                self._repair(waiting, found.damages)
                for group in executions(self._state.remaining):
                    # Not `group`: an artifact completed since changes later fingerprints.
                    self._execute(self._state.remaining[: len(group)])
            finally:
                end_coordinator(self._coordinator)

    def _tell_damage(self, line: str) -> None:
        self._display.say(line)
        self._ledger.of_run.damages.append(line)

    def _reuse(self, segment: Segment, done: Done) -> None:
        """Take a complete segment as it is, and write those of its files that are not there."""
        self._state.add(done)
        self._exports.rows_digests[segment.folder] = done.digest
        self._ledger.add(segment, done, reused=True)
        if segment.has_rows:
            # One that could not be written before.
            export_stages(self._storage, segment, self._unit_ids, self._exports, missing_only=True)

    def _repair(
        self, complete: Sequence[tuple[Segment, Done]], damages: Mapping[str, Collection[str]]
    ) -> None:
        """Make the damaged units of complete segments again, and nothing else of them.

        Args:
            complete: complete segments in order, from the first that has damaged units.
            damages: their damaged units, by the segment's folder.
        """
        for segment, done in complete:
            if segment.folder in damages:
                self._execute([segment], damages[segment.folder])
            else:
                self._reuse(segment, done)
            if self._state.input_digest != done.digest:
                # The rows are other ones than before: what was made of those has to run again.
                config, remaining = self._prepared.config, self._state.remaining
                check_stages(remaining)
                nodes = cluster.nodes_of_cluster()
                cluster.check_resources(remaining, config.llms, nodes, config.autoscaling)
                return

    def _ended_by_interrupt(self) -> None:
        """Record how the run ended, for a process that Ray's native code does not give back."""
        self._ledger.end("interrupted", "stopped by the user")
        self._display.say("interrupted (run the same command again to continue)")

    def _job(self, segment: Segment) -> SegmentJob:
        prepared = self._prepared
        position = self._state.segments.index(segment)
        return SegmentJob(
            storage=self._storage,
            segment=segment.for_workers(),
            rows_from=(
                FromSource(prepared.survey.spec)
                if segment.reads_source
                else FromSegment(self._storage, self._state.upstream_of(segment).folder)
            ),
            input_schema=prepared.input_schemas[position],
            llms=prepared.config.llms,
            revisions=prepared.revisions,
            seed=prepared.config.seed,
            unit_rows=max((unit.rows for unit in self._units), default=1),
            retry=self._retry,
            run_id=self._run_id,
            row_seconds=row_seconds(prepared.config.stuck_after_seconds),
        )

    def _execute(self, segments: list[Segment], only: Collection[str] | None = None) -> None:
        """Run segments that stream together, then audit and close each of them.

        Args:
            segments: the segments.
            only: the units to run, where the others are committed; None: all.
        """
        if not segments[0].has_rows:
            self._make(segments[0])
            return
        jobs = [self._job(segment) for segment in segments]
        tally = self._tally(segments, only)
        # Before anything is sent: whatever ends this process, the ledger has these stages.
        self._ledger.save_live(tally)
        if jobs[0].segment.kind is DecideStage:
            self._display.say(f"deciding {jobs[0].segment.name}")
            with self._ledger.of_run.timed("decide"):
                infos = self._committed_before(segments[0])
                decide(jobs[0], self._units, infos, self._display.say)
        units = [unit for unit in self._units if only is None or unit.unit_id in only]
        execution = Execution(jobs, units, self._coordinator)
        execution.start()
        try:
            with self._ledger.of_run.timed("execution"):
                self._watch(execution, tally, jobs)
        except BaseException as error:
            self._stop_workers(execution, error)
            raise
        for job in jobs:
            self._close(job.segment, tally)

    def _tally(self, segments: list[Segment], only: Collection[str] | None) -> Tally:
        """The progress of segments that start, with the requests of earlier attempts at them."""
        earlier = {}
        for segment in segments:
            if segment.kind is AskStage:
                damages: list[Damage] = []
                requests = recorded_units(self._storage, segment.name, self._unit_ids, damages)
                if damages:
                    self._display.say(f"{segment.name}: {damages_in_words(damages)}")
                infos = committed_infos(self._storage, segment, list(requests))
                pairs = zip(requests.items(), infos, strict=True)
                earlier[segment.index] = {unit: r for (unit, r), info in pairs if info is None}
        tally = Tally(segments, len(self._units), earlier)
        for segment in segments if only is not None else ():
            infos = committed_infos(self._storage, segment, self._unit_ids)
            for unit_id, info in zip(self._unit_ids, infos, strict=True):
                if info is not None and unit_id not in (only or ()):
                    tally.segments[segment.index].set_committed(unit_id, info.accounts)
        return tally

    def _make(self, segment: Segment) -> None:
        """Make the artifact of a segment, from the rows that the segment before it kept."""
        made = still_made(self._storage, segment, self._state)
        if made is not None:
            # A segment before it had to run again, and kept the same rows.
            self._reuse(segment, made)
            return
        self._ledger.begin(segment)
        artifact = Artifact(self._storage, segment)
        account = StageAccount.untouched(segment.name, self._ledger.of_run.entries[-1].account)
        began = time.monotonic()
        with self._ledger.of_run.timed("artifacts"):
            unit_ids, rows_digest = self._unit_ids, self._state.input_digest
            if artifact.stage.sources is not None:
                unit_ids, rows_digest = self._rows_of(segment, artifact.stage)
            digest = artifact.make(
                self._state.upstream_of(segment).folder, unit_ids, rows_digest, self._display.say
            )
        account.seconds = time.monotonic() - began
        state, units = self._state, len(self._units)
        done = Done(segment.fingerprint, state.input_digest, digest, units, [account])
        done = replace(done, rows_digest=state.rows_digest)
        self._complete(segment, done, reused=False)

    def _rows_of(self, segment: Segment, stage: Stage) -> tuple[list[str], str]:
        """The units of the sources that a stage is limited to, and a digest of their rows."""
        pairs = zip(self._units, self._committed_before(segment), strict=True)
        digests = {u.unit_id: info.digest for u, info in pairs if works_on(stage, u.source)}
        return list(digests), set_digest(f"{unit}:{digest}" for unit, digest in digests.items())

    def _watch(self, execution: Execution, tally: Tally, jobs: list[SegmentJob]) -> None:
        saved, ended = time.monotonic(), False
        stalls = StallWatch.of(self._prepared.config, self._display.say)
        stuck = StuckUnits.of(self._prepared.config, self._coordinator, self._display.say)
        pauses = PauseNews(self._display.say, self._prepared.config.llms)
        while not ended:
            ended = execution.wait(_POLL)
            self._storage.check_held()
            news = ray.get(self._coordinator.poll.remote())
            for receipt in itertools.chain(*news.receipts.values()):
                if receipt.damage is not None:
                    self._tell_damage(f"{receipt.damage}; its unit was made again")
            tally.update(news)
            self._ledger.unwritten += news.unwritten
            self._display.update(tally, news.starting)
            self._ledger.of_run.waiting = pauses.update(news.keys, tally.rows_in_work())
            if news.stop is not None:
                raise _Stopped(news.stop)
            self._check_failures(tally)
            self._give_back_models(tally, jobs)
            stuck.check(tally, news)
            stalls.check(tally, news)
            if time.monotonic() - saved > _SAVE:
                self._ledger.save_live(tally)
                saved = time.monotonic()

    def _check_failures(self, tally: Tally) -> None:
        failed = tally.failed_rows() + sum(e.account.failed for e in self._ledger.of_run.entries)
        if failed > self._allowed:
            limit = in_words(self._prepared.config.budget.max_failed_rows)
            raise RunError(
                f"{failed} rows failed, {self._allowed} are allowed (budget.max_failed_rows: "
                f"{limit}, of {self._prepared.survey.rows} rows). The ledger counts the reasons; "
                "`ray-pipeline rows RUN STAGE --status failed` shows the rows"
            )

    def _give_back_models(self, tally: Tally, jobs: list[SegmentJob]) -> None:
        """End the local models that no unfinished segment needs."""
        needed = {
            stage.config.llm
            for segment in self._state.segments
            for stage in segment.stages
            if isinstance(stage, AskStage)
            and not (segment.index in tally.segments and tally.segments[segment.index].finished)
            and all(entry.account.name != stage.name for entry in self._ledger.of_run.entries)
        }
        asked = [job.segment.stages[-1] for job in jobs if job.segment.kind is AskStage]
        for name in {stage.config.llm for stage in asked} - needed:
            self._coordinator.release.remote(name)

    def _stop_workers(self, execution: Execution, error: BaseException) -> None:
        """Order every worker to stop, and wait for requests in flight to be stored."""
        self._display.say("stopping: what is done is kept")
        kind: StopKind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        kind = error.stop.kind if isinstance(error, _Stopped) else kind
        have_ended = True
        try:
            ray.get(self._coordinator.stop.remote(kind, str(error)), timeout=5)
            try:
                have_ended = execution.wait(_GRACE)
            finally:
                news = ray.get(self._coordinator.poll.remote(), timeout=5)
                self._ledger.unwritten += news.unwritten
        except Exception as second:
            # The first error is the one to report to the user.
            self._display.say(f"while stopping: {cause_in_words(second)}")
        if not have_ended:
            # Ray may end this process when it is shut down under an execution: be first.
            self._ledger.end(kind, cause_in_words(error))
            self._display.say(f"the workers did not end: {self._ledger.of_run.message}")

    def _close(self, segment: Segment, tally: Tally) -> None:
        """Audit a segment against its parts on storage, export its files, and mark it complete."""
        with self._ledger.of_run.timed("audit"):
            infos = committed_infos(self._storage, segment, self._unit_ids)
        digests = {}
        for unit_id, info in zip(self._unit_ids, infos, strict=True):
            if info is None:
                raise RunError(f"unit {unit_id} of {segment.folder} is not committed")
            made = sum(account.created for account in info.accounts)
            if info.rows != info.accounts[0].rows_in + made:
                raise RunError(f"unit {unit_id} of {segment.folder} holds {info.rows} rows")
            digests[unit_id] = info.digest
        done = Done(
            fingerprint=segment.fingerprint,
            input_digest=self._state.input_digest,
            digest=set_digest(f"{unit}:{digest}" for unit, digest in digests.items()),
            units=len(digests),
            accounts=total(segment.account_names, [i.accounts for i in infos if i is not None]),
        )
        sweep_parts(self._storage, segment.folder, self._unit_ids)
        self._exports.rows_digests[segment.folder] = done.digest
        with self._ledger.of_run.timed("exports"):
            export_stages(self._storage, segment, self._unit_ids, self._exports)
        self._closed = {segment.folder: [info for info in infos if info is not None]}
        self._complete(segment, done, tally.segments[segment.index].reused == len(self._units))

    def _complete(self, segment: Segment, done: Done, reused: bool) -> None:
        """Mark a segment complete: on storage first, then in memory and in the ledger."""
        identities = {stage.name: stage_identity(stage) for stage in segment.stages}
        done = replace(done, identities=identities)
        done.save(self._storage, segment.folder)
        self._state.add(done)
        self._ledger.add(segment, done, reused)

    def _committed_before(self, segment: Segment) -> list[PartInfo]:
        """Footers of the parts that a segment reads, one for each unit.

        Raises:
            RunError: a part is gone.
        """
        upstream = self._state.upstream_of(segment)
        if upstream.folder in self._closed:
            return self._closed[upstream.folder]
        return existing_infos(self._storage, upstream.folder, self._unit_ids)


class _Stopped(Exception):
    """A worker ordered the run to stop."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.message)
        self.stop = stop
