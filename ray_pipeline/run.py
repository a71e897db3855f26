"""A run, as a Python object: its account, its rows, one row's life, its figures, its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_pipeline.core.errors import BudgetExhausted, RunError
from ray_pipeline.report import write_report
from ray_pipeline.rundir import models
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.ledger import Ledger, Status
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.rundir.trace import Trace, trace


class Run:
    """What a run directory holds, whether the run is still running or how it ended.

    The ledger is read once. To see the progress of a run that is running, make another object.

    Args:
        uri: the run directory: a path or an ``s3://`` URI.

    Attributes:
        reader: gives access to the parts of the directory that have no method here.

    Raises:
        UserError: there is no run at `uri`; the message names the nearest directories with one.
    """

    def __init__(self, uri: str | Path) -> None:
        self.reader = RunReader(str(uri))

    def __repr__(self) -> str:
        return f"Run({self.uri!r}, {self.status})"

    @property
    def uri(self) -> str:
        """The run directory: a path or an ``s3://`` URI."""
        return self.reader.storage.uri()

    @property
    def ledger(self) -> Ledger:
        """The account of every row, stage by stage, and how the run ended."""
        return self.reader.ledger

    @property
    def status(self) -> Status:
        """``running``, ``succeeded``, ``failed``, ``interrupted`` or ``budget_exhausted``."""
        return self.ledger.status

    @property
    def stages(self) -> list[str]:
        """Names of the stages in the ledger, in order; the first is ``source``."""
        return [entry.account.name for entry in self.ledger.entries]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with, as plain data."""
        return self.reader.config

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics of the stages that trained, searched or evaluated, by stage."""
        figures = {stage: self.reader.made_by(stage) for stage in self.stages}
        return {stage: made for stage, made in figures.items() if made is not None}

    @property
    def models(self) -> list[str]:
        """Names of the models that the run has finished training; see `model`."""
        return models.model_names(self.reader.storage)

    def model(self, name: str) -> str:
        """A folder on this machine with one of the `models`, for transformers or vLLM to load.

        Raises:
            UserError: the run has no such model; the message names those it has.
        """
        return models.find_model(f"{self.uri}:{name}")

    def account(self, stage: str) -> StageAccount:
        """How many rows a stage read, created, kept, dropped and failed, and why.

        Raises:
            UserError: no such stage; the message names the nearest.
        """
        return self.reader.entry(stage).account

    def rows(
        self,
        stage: str,
        status: str | None = "kept",
        reason: str | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        source: str | None = None,
    ) -> Rows:
        """Rows that a stage kept, dropped or failed. Nothing is read before they are used.

        Args:
            stage: named as in the ledger.
            status: ``kept``, ``dropped`` or ``failed``; None: all of them.
            reason: only rows whose reason starts with this text.
            columns: the columns to read, in this order; None: all of them.
            limit: stop after this many rows; None: no limit.
            source: only rows of this named source; None: those of all sources.

        Raises:
            UserError: no such stage, status, column or source.
        """
        return Rows(self.reader, stage, status, reason, columns, limit, source)

    def trace(self, row_id: str) -> Trace:
        """Trace one row: where it was read from, and what each stage did with it.

        Args:
            row_id: its id, or a beginning of at least six digits that no other row has.

        Raises:
            UserError: no row has this id, or several ids begin with it.
        """
        return trace(self.reader, row_id)

    def report(self) -> str:
        """Write ``report.html`` into the run directory, replacing an earlier one.

        Returns:
            The path or URI of the report.

        Raises:
            RunError: the directory cannot be read or written.
        """
        return write_report(self.reader.storage)

    def check(self) -> None:
        """Raise an error unless the run succeeded.

        Raises:
            BudgetExhausted: it stopped because the budget was spent.
            RunError: it ended in another way, or has not ended.
        """
        if self.status == "succeeded":
            return
        message = self.ledger.message or f"{self.uri}: the run is {self.status}"
        raise (BudgetExhausted if self.status == "budget_exhausted" else RunError)(message)
