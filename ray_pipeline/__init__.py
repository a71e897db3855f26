"""Training data made with language models, and models trained on it, on Ray."""

from __future__ import annotations

# Before any other import, because these may fail for the reason that it finds.
from ray_pipeline.core.shadowing import check_first_folders

check_first_folders()

from importlib import import_module  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from ray_pipeline.core.errors import BudgetExhausted, RunError, UserError
    from ray_pipeline.pipeline import Pipeline
    from ray_pipeline.run import Run
    from ray_pipeline.stages.compression.compressor import compress

__version__ = "0.1.0"

__all__ = ["BudgetExhausted", "Pipeline", "Run", "RunError", "UserError", "compress"]

#: Where the names of this module are defined. They are imported when they are first used, so that
#: `import ray_pipeline` does not wait for Ray.
_MODULES = {
    "BudgetExhausted": "ray_pipeline.core.errors",
    "Pipeline": "ray_pipeline.pipeline",
    "Run": "ray_pipeline.run",
    "RunError": "ray_pipeline.core.errors",
    "UserError": "ray_pipeline.core.errors",
    "compress": "ray_pipeline.stages.compression.compressor",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
