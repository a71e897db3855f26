"""TODO."""

from __future__ import annotations

import os
from typing import Any

#: That vLLM's processes get to end by themselves.
SHUTDOWN_SECONDS = 30.0


def engine_arguments(model: str, **settings: Any) -> dict[str, Any]:
    """What vLLM's engines are made with, on this machine.

    Args:
        model: folder or hub id of the weights.
        settings: further ones of vLLM's ``EngineArgs``; they win over what this machine suggests.
    """
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = {
        "model": model,
        "dtype": "bfloat16",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if current_platform.is_cpu():
        # Compiling takes minutes on a CPU and gains little for small models.
        arguments["enforce_eager"] = True
        # vLLM 0.32 rewinds a seeded request's generator when a prompt is computed in pieces,
        # which a CPU generator cannot: the engine dies of it.
        arguments["enable_chunked_prefill"] = False
    return arguments | settings


def quiet() -> None:
    """Settings of vLLM that only the environment takes; what the user set stands."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
