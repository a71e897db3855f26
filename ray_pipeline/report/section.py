"""What a section of the report is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray_pipeline.report.reading import ReportReader


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an entry in its table of contents.

    Attributes:
        anchor: its id on the page.
        title: its heading, and its entry in the table of contents.
        template: its file in ``report/sections``. It is rendered with what `read` returned as
            ``section``, below the heading.
        read: reads what the section shows from the run directory; None leaves the section out.
    """

    anchor: str
    title: str
    template: str
    read: Callable[[ReportReader], Any]
