"""Writes report.html."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ray_pipeline import __version__
from ray_pipeline.core import text as formats
from ray_pipeline.core.storage import Storage
from ray_pipeline.report.content import gather
from ray_pipeline.report.sections.examples import raw

NAME = "report.html"


def write_report(storage: Storage) -> str:
    """Write the report of a run, in place of the one before.

    Args:
        storage: the run directory; the run may be going on, or have ended in any way.

    Returns: where the report is.

    Raises:
        UserError: there is no run.
        RunError: the directory cannot be read or written.
    """
    page = _template().render(run=gather(storage), version=__version__)
    storage.write_bytes(NAME, page.encode("utf-8", errors="replace"))
    return storage.uri(NAME)


@cache
def _template() -> Template:
    # Row texts are hostile: everything is escaped but what the template itself says.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=formats.count,
        duration=formats.duration,
        dollars=formats.dollars,
        figure=formats.figure,
        plain=formats.plain,
        raw=raw,
    )
    environment.globals.update(dash=formats.NONE, share=formats.share)
    return environment.get_template("report.html.j2")
