"""The report of a made run, parsed."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from support.made_run import MadeRun

from ray_pipeline.report import write_report

#: Texts that would do harm if they became part of the page's markup.
HOSTILE = [
    "<script>alert(1)</script>",
    '" onload="alert(1)" x=\'',
    "</style><img src=http://evil.example/x.png>",
    "{{ 7 * 7 }}{% raw %}",
    "spam <b onclick=alert(1)>\x1b[31m\x00\u202e",
    "boom javascript:alert(1) <svg/onload=alert(1)>",
]


class Page(HTMLParser):
    """What a page consists of: its elements with their attributes, its text and its style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(html)

    @property
    def names(self) -> set[str]:
        """Names of its elements."""
        return {tag for tag, _ in self.tags}

    @property
    def sections(self) -> list[str | None]:
        """Anchors of its sections, in order."""
        return [attributes.get("id") for tag, attributes in self.tags if tag == "section"]

    @property
    def words(self) -> str:
        """Its text with single spaces."""
        return " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
        else:
            self.text += data


def page(run: MadeRun) -> Page:
    """Write the report of a run and parse it."""
    return Page(Path(write_report(run.storage)).read_text(encoding="utf-8"))
