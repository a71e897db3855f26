"""Runs a job: takes the lock, runs the segments, and writes the ledger."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import yaml

from ray_pipeline.core.errors import RunError, UserError, cause_in_words, first_line
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
from ray_pipeline.engine.exports import Exports, export_dataset, export_stages
from ray_pipeline.engine.prepare import Prepared, prepare
from ray_pipeline.engine.progress import Display, Tally
from ray_pipeline.engine.reuse import RunState, run_state
from ray_pipeline.engine.segments import Segment, executions, stage_identity, works_on
from ray_pipeline.engine.stalls import StallWatch
from ray_pipeline.engine.streaming import Execution
from ray_pipeline.engine.unit import FromSegment, FromSource, SegmentJob
from ray_pipeline.engine.waits import PauseNews
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.environment import environment
from ray_pipeline.rundir.layout import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LOG_FILE,
    PROMPTS,
    UNITS_FILE,
    part_path,
    rows_folder,
)
from ray_pipeline.rundir.ledger import Done, Ledger, LedgerEntry, Status
from ray_pipeline.rundir.lock import run_lock
from ray_pipeline.rundir.parts import PartInfo, existing_infos, read_infos
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
    """
    config = job.config
    storage = Storage(config.run_dir)
    ledger = Ledger(run=storage.uri())
    with run_lock(storage, display.say) as run_id:
        with ledger.timed("prepare"):
            prepared = prepare(config, job.stages, job.prompt_folders, storage.uri("source"), until)
        _describe(storage, prepared)
        ledger.notes = list(prepared.survey.notes)
        for note in ledger.notes:
            display.say(f"source: {note}")
        with _log_file(storage) as log_file:
            return _Runner(storage, prepared, display, ledger, retry, log_file, run_id).run()


@contextlib.contextmanager
def _log_file(storage: Storage) -> Iterator[Path]:
    """The file for Ray's log lines and for tracebacks; on object storage, copied there at the end.

    Yields its path on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="ray-pipeline-") as folder:
        path = storage.local_path(LOG_FILE) if storage.is_local else Path(folder) / "ray.log"
        # Created with the first line: a run that reuses everything logs nothing.
        handler = logging.FileHandler(path, encoding="utf-8", delay=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _log.handlers, _log.propagate
        _log.handlers, _log.propagate = [handler], False
        try:
            yield path
        finally:
            _log.handlers, _log.propagate = before
            handler.close()
            if not storage.is_local and path.exists():
                # A bucket that cannot be reached has already been reported as the run's error.
                with contextlib.suppress(RunError):
                    storage.write_bytes(LOG_FILE, path.read_bytes())


def _describe(storage: Storage, prepared: Prepared) -> None:
    """Write the inputs of the run: its configuration, prompts, environment and units."""
    config = prepared.config.model_dump(mode="json", by_alias=True)
    storage.write_bytes(CONFIG_FILE, yaml.safe_dump(config, sort_keys=False).encode())
    about = orjson.dumps(environment(prepared.config.seed), option=orjson.OPT_INDENT_2)
    storage.write_bytes(ENVIRONMENT_FILE, about)
    for prompt in prepared.prompts.values():
        storage.write_bytes(f"{PROMPTS}/{prompt.name}.yaml", prompt.to_yaml().encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(unit) for unit in prepared.survey.units]), sink)
    storage.write_bytes(UNITS_FILE, sink.getvalue())


class _Runner:
    """Runs the segments of a run, one execution after another."""

    #: Started with the first segment that has work to do.
    _coordinator: CoordinatorHandle

    def __init__(
        self,
        storage: Storage,
        prepared: Prepared,
        display: Display,
        ledger: Ledger,
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
        self._began = time.monotonic()
        self._state = RunState(prepared.segments, self._unit_ids)
        #: Footers of the parts of the segment that was closed last, by its folder.
        self._closed: dict[str, list[PartInfo]] = {}
        self._exports = Exports()
        self._allowed = prepared.config.budget.failed_rows_allowed(prepared.survey.rows)

    def run(self) -> Ledger:
        self._ledger.save(self._storage)
        try:
            self._run_segments()
            self._ledger.check()
            export = self._prepared.config.export
            with self._ledger.timed("exports"):
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
            self._end("succeeded")
        except _Stopped as stopped:
            self._end(stopped.stop.kind, stopped.stop.message)
        except RunError as error:
            self._end("failed", str(error))
        except KeyboardInterrupt:
            self._end("interrupted", "stopped by the user")
        except UserError as error:
            # The caller reports it, but the ledger must not say "running".
            with contextlib.suppress(RunError):
                self._end("failed", str(error))
            raise
        except Exception as error:
            # A defect of ours or of Ray, or a lost cluster. The user sees one line, and the
            # traceback is in the log.
            _log.exception("the run ended unexpectedly")
            what = f"{type(error).__name__}: {first_line(error)}"
            if isinstance(error, ray.exceptions.RayError):
                what = cause_in_words(error)
            self._end("failed", f"{what} ({LOG_FILE} has the rest)")
        return self._ledger

    def _run_segments(self) -> None:
        self._state = run_state(self._storage, self._prepared, self._retry)
        for segment, done in self._state.complete:
            self._add_entries(segment, done, reused=True)
            if segment.has_rows:
                # One that could not be written before.
                export_stages(
                    self._storage, segment, self._unit_ids, self._exports, missing_only=True
                )
        remaining = self._state.remaining
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
                for group in executions(remaining):
                    # Not `group` itself: an artifact that was completed since changed the
                    # fingerprints of the segments after it.
                    self._execute(self._state.remaining[: len(group)])
            finally:
                end_coordinator(self._coordinator)

    def _ended_by_interrupt(self) -> None:
        """Record how the run ended, for a process that Ray's native code does not give back."""
        self._end("interrupted", "stopped by the user")
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
        )

    def _execute(self, segments: list[Segment]) -> None:
        """Run segments that stream together, then audit and close each of them."""
        if not segments[0].has_rows:
            self._make(segments[0])
            return
        jobs = [self._job(segment) for segment in segments]
        if jobs[0].segment.kind is DecideStage:
            self._display.say(f"deciding {jobs[0].segment.name}")
            with self._ledger.timed("decide"):
                infos = self._committed_before(segments[0])
                decide(jobs[0], self._units, infos, self._display.say)
        tally = Tally([job.segment for job in jobs], len(self._units))
        execution = Execution(jobs, self._units, self._coordinator)
        execution.start()
        try:
            with self._ledger.timed("execution"):
                self._watch(execution, tally, jobs)
        except BaseException as error:
            self._stop_workers(execution, error)
            self._account_partly(jobs)
            raise
        for job in jobs:
            self._close(job.segment, tally)

    def _make(self, segment: Segment) -> None:
        """Make the artifact of a segment, from the rows that the segment before it kept."""
        artifact = Artifact(self._storage, segment)
        account = StageAccount.untouched(segment.name, self._ledger.entries[-1].account)
        began = time.monotonic()
        with self._ledger.timed("artifacts"):
            unit_ids, rows_digest = self._unit_ids, self._state.input_digest
            if artifact.stage.sources is not None:
                unit_ids, rows_digest = self._rows_of(segment, artifact.stage)
            digest = artifact.make(
                self._state.upstream_of(segment).folder, unit_ids, rows_digest, self._display.say
            )
        account.seconds = time.monotonic() - began
        done = Done(
            segment.fingerprint, self._state.input_digest, digest, len(self._units), [account]
        )
        self._complete(segment, done, reused=False)

    def _rows_of(self, segment: Segment, stage: Stage) -> tuple[list[str], str]:
        """The units of the sources that a stage is limited to, and a digest of their rows."""
        pairs = zip(self._units, self._committed_before(segment), strict=True)
        digests = {u.unit_id: info.digest for u, info in pairs if works_on(stage, u.source)}
        return list(digests), set_digest(f"{unit}:{digest}" for unit, digest in digests.items())

    def _watch(self, execution: Execution, tally: Tally, jobs: list[SegmentJob]) -> None:
        saved = time.monotonic()
        ended = False
        stalls = StallWatch.of(self._prepared.config, self._display.say)
        pauses = PauseNews(self._display.say, self._prepared.config.llms)
        while not ended:
            ended = execution.wait(_POLL)
            news = ray.get(self._coordinator.poll.remote())
            tally.update(news)
            self._display.update(tally, news.starting)
            self._ledger.waiting = pauses.update(news.keys, tally.rows_in_work())
            if news.stop is not None:
                raise _Stopped(news.stop)
            self._check_failures(tally)
            self._give_back_models(tally, jobs)
            stalls.check(tally, news)
            if time.monotonic() - saved > _SAVE:
                self._save_live(tally)
                saved = time.monotonic()

    def _check_failures(self, tally: Tally) -> None:
        failed = tally.failed_rows() + sum(e.account.failed for e in self._ledger.entries)
        if failed > self._allowed:
            limit = in_words(self._prepared.config.budget.max_failed_rows)
            raise RunError(
                f"{failed} rows failed, {self._allowed} are allowed (budget.max_failed_rows: "
                f"{limit}, of {self._prepared.survey.rows} rows). The ledger counts the reasons; "
                "`ray-pipeline rows RUN STAGE --status failed` shows the rows"
            )

    def _give_back_models(self, tally: Tally, jobs: list[SegmentJob]) -> None:
        """End the local models that no unfinished segment needs."""
        ask_jobs = [job for job in jobs if job.segment.kind is AskStage]
        needed = {
            stage.config.llm
            for segment in self._state.segments
            for stage in segment.stages
            if isinstance(stage, AskStage)
            and not (segment.index in tally.segments and tally.segments[segment.index].finished)
            and all(entry.account.name != stage.name for entry in self._ledger.entries)
        }
        for name in {job.segment.stages[-1].config.llm for job in ask_jobs} - needed:
            self._coordinator.release.remote(name)

    def _stop_workers(self, execution: Execution, error: BaseException) -> None:
        """Order every worker to stop, and wait for requests in flight to be stored."""
        self._display.say("stopping: what is done is kept")
        kind: StopKind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        kind = error.stop.kind if isinstance(error, _Stopped) else kind
        have_ended = True
        try:
            ray.get(self._coordinator.stop.remote(kind, str(error)), timeout=5)
            have_ended = execution.wait(_GRACE)
        except Exception as second:
            # The first error is the one to report to the user.
            self._display.say(f"while stopping: {cause_in_words(second)}")
        if not have_ended:
            # Ray may end this process when it is shut down under an execution: be first.
            self._end(kind, cause_in_words(error))
            self._display.say(f"the workers did not end: {self._ledger.message}")

    def _account_partly(self, jobs: list[SegmentJob]) -> None:
        """Add ledger entries for interrupted segments, from the footers of committed units."""
        for job in jobs:
            infos = [info for info in self._infos(job.segment) if info is not None]
            if infos:
                accounts = total(job.segment.account_names, [info.accounts for info in infos])
                for index, print_, account in _numbered(job.segment, accounts):
                    self._ledger.entries.append(LedgerEntry(index, print_, account))

    def _close(self, segment: Segment, tally: Tally) -> None:
        """Audit a segment against its parts on storage, export its files, and mark it complete."""
        with self._ledger.timed("audit"):
            infos = self._infos(segment)
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
        self._sweep(segment)
        with self._ledger.timed("exports"):
            export_stages(self._storage, segment, self._unit_ids, self._exports)
        self._closed = {segment.folder: [info for info in infos if info is not None]}
        self._complete(segment, done, tally.segments[segment.index].reused == len(self._units))

    def _complete(self, segment: Segment, done: Done, reused: bool) -> None:
        """Mark a segment complete: on storage first, then in memory and in the ledger."""
        identities = {stage.name: stage_identity(stage) for stage in segment.stages}
        done = replace(done, identities=identities)
        done.save(self._storage, segment.folder)
        self._state.add(done)
        self._add_entries(segment, done, reused)

    def _committed_before(self, segment: Segment) -> list[PartInfo]:
        """Footers of the parts that a segment reads, one for each unit.

        Raises:
            RunError: a part is gone.
        """
        upstream = self._state.upstream_of(segment)
        if upstream.folder in self._closed:
            return self._closed[upstream.folder]
        return existing_infos(self._storage, upstream.folder, self._unit_ids)

    def _infos(self, segment: Segment) -> list[PartInfo | None]:
        """Footers of a segment's parts, for each unit; None where the unit is not committed."""
        infos = read_infos(self._storage, segment.folder, self._unit_ids)
        return [i if i and i.fingerprint == segment.fingerprint else None for i in infos]

    def _sweep(self, segment: Segment) -> None:
        """Delete parts of units that the source no longer has."""
        wanted = {part_path(segment.folder, unit_id) for unit_id in self._unit_ids}
        for path in list(self._storage.list(rows_folder(segment.folder))):
            if path not in wanted:
                self._storage.delete(path)

    def _add_entries(self, segment: Segment, done: Done, reused: bool) -> None:
        for index, print_, account in _numbered(segment, done.accounts):
            self._ledger.entries.append(LedgerEntry(index, print_, account, reused))
        self._save()

    def _save_live(self, tally: Tally) -> None:
        settled = list(self._ledger.entries)
        for part in tally.segments.values():
            for index, print_, account in _numbered(part.segment, part.accounts()):
                self._ledger.entries.append(LedgerEntry(index, print_, account))
        self._save()
        self._ledger.entries = settled

    def _save(self) -> None:
        self._ledger.seconds = time.monotonic() - self._began
        self._ledger.save(self._storage)

    def _end(self, status: Status, message: str | None = None) -> None:
        self._ledger.status, self._ledger.message = status, message
        self._ledger.waiting = []
        notes = self._exports.notes.items()
        self._ledger.export_notes = [f"{path}: {note}" for path, note in notes]
        try:
            self._save()
        except RunError as error:
            # The reason why the run stopped matters more than the ledger that cannot be written.
            raise RunError(message or str(error)) from error


class _Stopped(Exception):
    """A worker ordered the run to stop."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.message)
        self.stop = stop


def _numbered(segment: Segment, accounts: Sequence[Any]) -> Iterator[tuple[int, str, Any]]:
    """Ledger index, fingerprint and account of each stage of a segment."""
    first = segment.index - len(segment.stages) + (0 if segment.reads_source else 1)
    pairs = zip(segment.fingerprints, accounts, strict=True)
    for index, (print_, account) in enumerate(pairs, start=first):
        yield index, print_, account
