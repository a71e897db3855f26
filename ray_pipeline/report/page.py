"""Writes report.html: the head of the page, a table of contents, and the sections.

To add a section:

1. Write ``sections/NAME.py`` with a function ``read(reader: ReportReader)`` that returns what the
   section shows, or None where the run has nothing of the kind;
2. end it with ``SECTION = Section(anchor, title, "NAME.html.j2", read)``;
3. write ``sections/NAME.html.j2``, which shows ``section``: what `read` has returned;
4. add "NAME" to `ORDER` below, where it is to stand on the page;
5. test `read` on a made run (``tests/support/made_run.py``) in tests/report/sections/test_NAME.py.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ray_pipeline import __version__
from ray_pipeline.core import text
from ray_pipeline.core.redaction import without_known
from ray_pipeline.core.storage import Storage
from ray_pipeline.report.header import read_header
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.checksums import DamagedFile

NAME = "report.html"
#: The sections, by the names of their files, in the order of the page.
ORDER = [
    "account",
    "by_source",
    "reasons",
    "embedding_map",
    "duplicates",
    "shared_texts",
    "versions",
    "leak",
    "lengths",
    "compressed_prompts",
    "scorers",
    "subsets",
    "changes",
    "compression",
    "search",
    "training",
    "evaluation",
    "nli_evaluation",
    "retrievers",
    "retriever_tuning",
    "differences",
    "samples",
    "tradeoff",
    "worth",
    "orderings",
    "completions",
    "published",
    "effort",
    "counts",
    "failures",
    "configuration",
]
SECTIONS: list[Section] = [
    import_module(f"ray_pipeline.report.sections.{name}").SECTION for name in ORDER
]


def write_report(storage: Storage) -> str:
    """Write the report of a run, in place of the one before.

    Args:
        storage: the run directory; the run may be going on, or have ended in any way.

    Returns: where the report is.

    Raises:
        UserError: there is no run.
        DamagedFile: a file is not what was written. The report was written, without the sections
            that show what is in the file; it names the file, too.
        RunError: the directory cannot be read or written.
    """
    page, damages = render(ReportReader(storage.root))
    page = without_known(page)
    storage.write_bytes(NAME, page.encode("utf-8", errors="replace"))
    if damages:
        raise DamagedFile(f"{storage.uri(NAME)} is not complete: {damages[0]}", damages[0])
    return storage.uri(NAME)


def render(reader: ReportReader) -> tuple[str, list[str]]:
    """The page of a run, with the sections that have something to show; and damage that was found.

    A section that cannot be shown, because a file is damaged, is left out: the page says so.
    """
    templates = _templates()
    shown = []
    damages: list[str] = []
    for section in SECTIONS:
        try:
            content = section.read(reader)
        except DamagedFile as error:
            damages.append(f"{section.title}: {error}")
            continue
        if content is not None:
            html = templates.get_template(section.template).render(section=content)
            shown.append((section, Markup(html)))
    frame = templates.get_template("page.html.j2")
    header = read_header(reader)
    page = frame.render(header=header, sections=shown, damages=damages, version=__version__)
    return page, damages


@cache
def _templates() -> Environment:
    here = Path(__file__).parent
    # Row texts are hostile: everything is escaped except what a template itself contains.
    environment = Environment(
        loader=FileSystemLoader([here, here / "sections"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=text.count,
        duration=text.duration,
        dollars=text.dollars,
        figure=text.figure,
        plain=text.plain,
        shortened=text.shortened,
    )
    environment.globals.update(dash=text.NONE, share=text.share)
    return environment
