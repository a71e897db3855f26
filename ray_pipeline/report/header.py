"""The head of the page: which run it was, how it ended, and its totals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ray_pipeline.core.storage import filesystem
from ray_pipeline.report.accounts import LlmLine, Totals, llm_lines, totals
from ray_pipeline.report.leaks import leak_warning
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.rundir.ledger import Ledger


@dataclass(frozen=True)
class Header:
    """What stands above the sections."""

    name: str
    ledger: Ledger
    environment: dict[str, Any]
    #: Whether the run says that it is running, and its process is known to be dead.
    process_is_gone: bool
    #: When the ledger was last written; None where the storage does not say.
    ended: datetime | None
    totals: Totals
    llms: list[LlmLine]
    #: Why figures on the test rows are not to be believed; None where nothing is known.
    leak_warning: str | None

    @property
    def began(self) -> datetime | None:
        """When the run began; worked out from when it ended and how long it took."""
        return self.ended - timedelta(seconds=self.ledger.seconds) if self.ended else None


def read_header(reader: ReportReader) -> Header:
    """Read the head of the page."""
    folder = reader.storage.root.rstrip("/").rpartition("/")[2]
    return Header(
        name=str(reader.config.get("name") or folder),
        ledger=reader.ledger,
        environment=reader.environment,
        process_is_gone=reader.driver_is_gone(),
        ended=_modified(reader, "ledger.json"),
        totals=reader.once(totals),
        llms=reader.once(llm_lines),
        leak_warning=leak_warning(reader.ledger.entries),
    )


def _modified(reader: ReportReader, path: str) -> datetime | None:
    fs, root = filesystem(reader.storage.root)
    modified = fs.get_file_info(f"{root.rstrip('/')}/{path}").mtime
    return modified.astimezone(UTC) if modified else None
