"""The configuration of the run, its prompts, and the files that it exported."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section


@dataclass(frozen=True)
class Configuration:
    """The section."""

    #: ``config.yaml`` as it is; empty when there is none.
    config: str
    #: Prompt files with their paths.
    prompts: list[tuple[str, str]]
    #: Paths below ``exports/``.
    exports: list[str]


def read(reader: ReportReader) -> Configuration:
    """Read the configuration."""
    storage = reader.storage
    exports = sorted(storage.list("exports", recursive=True))
    return Configuration(
        config=reader.config_text,
        prompts=[
            (path, (storage.read_bytes(path) or b"").decode(errors="replace"))
            for path in sorted(storage.list("prompts", recursive=True))
        ],
        exports=[path.removeprefix("exports/") for path in exports],
    )


SECTION = Section("configuration", "Configuration", "configuration.html.j2", read)
