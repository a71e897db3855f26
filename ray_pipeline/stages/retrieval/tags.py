"""The tagged form of a writing prompt, as the original experiment has it."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.stage import MapStage

#: A tag, or what would be read as one: ``<Fantasy>``, ``</Fantasy>``.
_TAG = r"</?\s*\w[^<>]*>"


class TagPrompts(MapStage):
    """Writes ``context``: the prompt with its genre, theme and title as tags before it.

    ``<Fantasy> </Fantasy> <Magic> </Magic> <Lost Translator> </Lost Translator> prompt A baker …``.
    The third tag is the title itself. A row without one of the three has no such tag.

    A tag in the text of a prompt would give the label away where figures are of the text alone:
    such a row is dropped (``tag:in_text``), and one whose genre, theme or title could not be read
    back out of its tag (``tag:malformed``).
    """

    name = "tag-prompts"
    reads = {name: pa.string() for name in ("prompt", "title", "genre", "theme")}
    writes = {"context": pa.string()}
    export = "prompts_with_tags_in_text.csv"

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Write the tagged form; drop what cannot have one."""
        rows = drop(rows, pc.match_substring_regex(rows["prompt"], _TAG), "tag:in_text")
        for name in ("genre", "theme", "title"):
            rows = drop(
                rows, pc.match_substring_regex(rows[name], "[<>]"), f"tag:malformed: {name}"
            )
        columns = [rows[name].to_pylist() for name in ("genre", "theme", "title", "prompt")]
        contexts = [
            None if prompt is None else tagged(prompt, tags)
            for *tags, prompt in zip(*columns, strict=True)
        ]
        return set_column(rows, "context", pa.array(contexts, pa.string()))


def tagged(prompt: str, tags: list[str | None]) -> str:
    """A prompt with its tags before it; tags that are empty or None are left out."""
    opened = [f"<{tag}> </{tag}>" for tag in tags if tag]
    return " ".join([*opened, "prompt", prompt])


def tags_of(context: str) -> list[str]:
    """The tags of a context, in order: the inverse of `tagged`."""
    return re.findall(r"<([^<>/][^<>]*)> </\1>", context.split(" prompt ", 1)[0] + " ")
