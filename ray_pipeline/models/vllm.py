"""How vLLM is started on this machine: its arguments, its settings, its end."""

from __future__ import annotations

import os
from typing import Any

from ray_pipeline.models.hub import at_commit
from ray_pipeline.models.vllm_sockets import sockets_folder

#: Seconds that vLLM's processes get to end by themselves.
SHUTDOWN_SECONDS = 30.0


#: Arguments of vLLM's engine that say where and how fast it computes, not what.
EXECUTION_ARGUMENTS = frozenset(
    {
        "data_parallel_size",
        "disable_log_stats",
        "distributed_executor_backend",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "max_num_batched_tokens",
        "max_num_seqs",
        "pipeline_parallel_size",
        "swap_space",
        "tensor_parallel_size",
    }
)


def changing(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of vLLM's engine that may change what it answers: all but the known others."""
    return {name: value for name, value in arguments.items() if name not in EXECUTION_ARGUMENTS}


def engine_arguments(model: str, **settings: Any) -> dict[str, Any]:
    """Arguments of vLLM's engines on this machine.

    Args:
        model: folder or hub id of the weights, with or without a commit.
        settings: further arguments of vLLM's ``EngineArgs``; they override the defaults here.
    """
    from vllm.platforms import current_platform

    name, commit = at_commit(model)
    arguments: dict[str, Any] = {
        "model": name,
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
    if commit:
        settings |= commit | {"tokenizer_revision": commit["revision"]}
    return arguments | settings


def quiet() -> None:
    """Set vLLM's environment variables, except those that the user has set."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    if "VLLM_RPC_BASE_PATH" not in os.environ and (folder := sockets_folder()) is not None:
        os.environ["VLLM_RPC_BASE_PATH"] = str(folder)
