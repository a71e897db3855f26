"""The base classes of all engines: the interface that the rest of the package uses."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.engines.tokens import RequestTokens, request_tokens
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.limits.protocol import KeyLimits
from ray_pipeline.llm.types import Engine, EngineError, Request
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig

#: Returns the actors of a local model's pool, and starts them if they are not running.
Actors = Callable[[], Awaitable[list[Any]]]


class BaseEngine(ABC):
    """A kind of engine. ``name`` is always the model's name under ``llms``."""

    #: Whether the model runs in a pool of actors of this cluster; if not, on an external server.
    is_local: ClassVar[bool]

    @classmethod
    @abstractmethod
    def check(cls, name: str, config: LlmConfig) -> None:
        """Check before a run that everything the engine needs exists. Sends no request.

        Raises:
            UserError: something is missing; the message says what, and how to fix it.
        """

    @classmethod
    def check_network(cls, name: str, config: LlmConfig) -> str | None:
        """Check the way to the model just before a run. Sends no request.

        Returns: a line that the user should read; None: there is nothing to say.

        Raises:
            UserError: the model cannot be reached; the message says what stands in the way.
        """
        return None

    @classmethod
    @abstractmethod
    def connect(cls, name: str, config: LlmConfig, limits: LimitsClient, actors: Actors) -> Engine:
        """Create the engine object that a worker process uses.

        Args:
            name: the model's name.
            config: its configuration.
            limits: the process's share of the run's limits.
            actors: returns the actors of the model's pool, if it has one.
        """

    @classmethod
    @abstractmethod
    def key_limits(cls, name: str, config: LlmConfig) -> dict[str, KeyLimits]:
        """The limits of the model's API keys, by label (``NAME/...``); at least one."""

    @classmethod
    @abstractmethod
    def workers(cls, config: LlmConfig) -> int:
        """Number of worker processes per stage that send requests to the engine."""

    @classmethod
    @abstractmethod
    def requests_at_once(cls, config: LlmConfig) -> int:
        """Number of requests in flight, from all workers together, that keeps the engine busy."""

    @classmethod
    def gpus(cls, config: LlmConfig, gpus_of_cluster: float) -> float:
        """Number of GPUs of this cluster that each of its actors uses."""
        return 0

    @classmethod
    def request_tokens(cls, config: LlmConfig, request: Request) -> RequestTokens:
        """Tokens that a request may use, for the plan, the budget and the tokens per minute."""
        return request_tokens(request)


class RemoteEngine(BaseEngine):
    """An engine on an external server, created by each worker: ``Class(name, config, limits)``."""

    is_local = False

    @abstractmethod
    def __init__(self, name: str, config: LlmConfig, limits: LimitsClient) -> None: ...

    @abstractmethod
    async def generate(self, request: Request) -> Response:
        """Answer one request; see `ray_pipeline.llm.types.Engine`."""

    @abstractmethod
    async def close(self) -> None:
        """Close connections."""

    @classmethod
    def check(cls, name: str, config: LlmConfig) -> None:
        """Check that the API keys are set."""
        cls.read_keys(name, config)

    @classmethod
    def connect(cls, name: str, config: LlmConfig, limits: LimitsClient, actors: Actors) -> Engine:
        """Create an engine: each worker process has its own connections."""
        return cls(name, config, limits)

    @classmethod
    def key_limits(cls, name: str, config: LlmConfig) -> dict[str, KeyLimits]:
        """The configured limits, which are the same for each key."""
        limits = KeyLimits(config.concurrency, config.requests_per_minute, config.tokens_per_minute)
        return dict.fromkeys(_key_variables(name, config), limits)

    @classmethod
    def read_keys(cls, name: str, config: LlmConfig) -> dict[str, str | None]:
        """The API keys by label, from the environment; None for a server without keys.

        Raises:
            UserError: a variable is not set, or does not hold a key.
        """
        variables = _key_variables(name, config)
        return {
            label: variable and _read_key(name, variable) for label, variable in variables.items()
        }

    @classmethod
    def workers(cls, config: LlmConfig) -> int:
        """The configured number of ``actors``."""
        return config.actors

    @classmethod
    def requests_at_once(cls, config: LlmConfig) -> int:
        """The sum of the concurrency of all keys."""
        return config.concurrency * max(1, len(config.api_keys_env))


class LocalEngine(BaseEngine):
    """An engine that runs in this cluster, as a Ray actor: ``Class(config, model)``.

    ``model`` is the folder or hub id of the weights.
    """

    is_local = True

    @abstractmethod
    def __init__(self, config: LlmConfig, model: str) -> None: ...

    @abstractmethod
    async def ready(self) -> bool:
        """Load the model if it isn't loaded; returns when it can answer."""

    @abstractmethod
    async def generate(self, request: Request) -> Response | EngineError:
        """Answer one request. Many calls are in flight at once.

        An error is returned rather than raised: Ray would wrap it in one of its own.
        """

    @classmethod
    def check(cls, name: str, config: LlmConfig) -> None:
        """No check: the engine may start on another machine, where missing parts are reported."""

    @classmethod
    def connect(cls, name: str, config: LlmConfig, limits: LimitsClient, actors: Actors) -> Engine:
        """Create an engine that sends each request to an actor of the pool."""
        from ray_pipeline.llm.engines.pool import PooledEngine

        return PooledEngine(name, config, actors, limits)

    @classmethod
    def key_limits(cls, name: str, config: LlmConfig) -> dict[str, KeyLimits]:
        """One key without limits: the pool itself bounds what is in flight."""
        return {f"{name}/local": KeyLimits(concurrency=1_000_000)}

    @classmethod
    def gpus(cls, config: LlmConfig, gpus_of_cluster: float) -> float:
        """As configured; by default one per tensor-parallel rank if the cluster has GPUs."""
        if config.num_gpus is not None:
            return config.num_gpus
        return config.tensor_parallel_size if gpus_of_cluster else 0

    @classmethod
    def workers(cls, config: LlmConfig) -> int:
        """One: a single process keeps a whole pool busy."""
        return 1

    @classmethod
    def requests_at_once(cls, config: LlmConfig) -> int:
        """Twice what the engines process at the same time, so that they never wait for requests."""
        return 2 * config.actors * config.max_num_seqs


def key_limits(llms: Mapping[str, LlmConfig]) -> dict[str, KeyLimits]:
    """The limits of all API keys of all models, by label."""
    limits: dict[str, KeyLimits] = {}
    for name, config in llms.items():
        limits |= config.engine_type.key_limits(name, config)
    return limits


def _key_variables(name: str, config: LlmConfig) -> dict[str, str | None]:
    """Labels of a model's keys, as ``NAME/VARIABLE``, and the environment variable of each."""
    if not config.api_keys_env:
        return {f"{name}/no key": None}
    return {f"{name}/{variable}": variable for variable in config.api_keys_env}


def _read_key(name: str, variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"llms.{name}.api_keys_env: the environment variable {variable} is not set; set it "
            "to the API key, or give api_keys_env: [] for a server without keys"
        )
    # Such a key would end up in an HTTP library's error message.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"llms.{name}.api_keys_env: the environment variable {variable} does not hold an API "
            "key: it has spaces or characters that no HTTP header takes"
        )
    return key
