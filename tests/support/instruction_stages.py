"""The stages of `quality_tradeoff` by name, as the job lists them."""

from __future__ import annotations

from typing import Any

from jobs.quality_tradeoff import PIPELINE

STAGES: dict[str, Any] = {stage.name: stage for stage in PIPELINE.stages}

#: How an instruction and its response become a text to learn as a whole: a `TextConfig`.
InstructionText: Any = STAGES["tokenise"].config_type.model_fields["text"].annotation
