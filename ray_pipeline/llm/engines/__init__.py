"""Engines: what answers requests. One file for each kind, and the registry of them all.

A new engine is one file here and its line in `ENGINES`. Nothing else names a kind of engine: the
rest of the package asks the class, through the classmethods of `ray_pipeline.llm.engines.base`. An
engine in another package needs no line: ``engine: package.module:Class`` in the configuration.

There are two bases. A `RemoteEngine` is a server elsewhere: it has API keys and their limits, and
each worker process makes one. A `LocalEngine` holds the weights: it is a Ray actor in the pool of
its model, which the run starts, shares among stages and gives back.

For example Text Generation Inference (TGI), in ``engines/tgi.py``, when its servers run already:

- ``class TgiEngine(RemoteEngine)`` with ``__init__(name, config, limits)``. `RemoteEngine` reads
  the keys (``api_keys_env: []`` for none) and gives concurrency, requests and tokens a minute.
- ``generate(request)``: wait for ``limits.start(estimate)``, POST the messages to
  ``{base_url}/v1/chat/completions``, or the rendered prompt to ``/generate`` with ``grammar`` for
  labels and JSON; return a `Response`, raise an `EngineError`; end the lease either way.
  `ray_pipeline.llm.engines.replies` says which HTTP errors to try again.
- ``close()``; and ``check(name, config)`` where more than the keys must be right before a run.
- ``request_tokens`` where its servers bill something else than prompt and answer.

If the run should start TGI itself, it is a `LocalEngine` whose ``ready()`` starts
``text-generation-launcher`` on ``model`` and whose ``generate()`` posts to it.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ray_pipeline.core.config import nearest

if TYPE_CHECKING:
    from ray_pipeline.llm.engines.base import BaseEngine

#: Where the class of each kind of engine is. Imported when it is used.
ENGINES = {
    "openai": "ray_pipeline.llm.engines.openai:OpenAIEngine",
    "vllm": "ray_pipeline.llm.engines.vllm:VllmEngine",
    "transformers": "ray_pipeline.llm.engines.transformers:TransformersEngine",
}
#: ``auto`` takes the first of these whose package is installed.
AUTO = ("vllm", "transformers")


def kind_of(engine: str) -> str:
    """The kind of engine that a configuration means: ``auto`` resolved, others as they are."""
    if engine != "auto":
        return engine
    return next((kind for kind in AUTO if find_spec(kind)), AUTO[-1])


def engine_type(kind: str) -> type[BaseEngine]:
    """The class of a kind of engine.

    Args:
        kind: a key of `ENGINES`, or ``package.module:Class``.

    Raises:
        ValueError: there is no such engine; the message names the nearest known one.
    """
    module_name, colon, class_name = ENGINES.get(kind, kind).partition(":")
    if not colon:
        raise ValueError(f"no engine {kind!r}{nearest(kind, ['auto', *ENGINES])}")
    try:
        found: type[BaseEngine] = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no engine {kind!r}: {error}") from None
    return found
