"""The configuration of the run, its prompts, and the files that it exported."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.redaction import redacted, redacted_data
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section


@dataclass(frozen=True)
class Configuration:
    """The section."""

    #: ``config.yaml`` without secrets; empty when there is none.
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
        config=_shown(reader),
        prompts=[
            (path, (storage.read_bytes(path) or b"").decode(errors="replace"))
            for path in sorted(storage.list("prompts", recursive=True))
        ],
        exports=[path.removeprefix("exports/") for path in exports],
    )


def _shown(reader: ReportReader) -> str:
    """The text of ``config.yaml`` without secrets."""
    try:
        config = redacted_data(reader.config)
    except RunError:  # not YAML
        return redacted(reader.config_text)
    if config == reader.config:
        return reader.config_text
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text


SECTION = Section("configuration", "Configuration", "configuration.html.j2", read)
