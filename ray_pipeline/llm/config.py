"""Configuration of the language models that stages name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ray_pipeline.core.config import AddedWith, Execution, Section
from ray_pipeline.core.resources import Resources
from ray_pipeline.llm.types import Sampling


class Prices(Section):
    """US dollars for a million tokens. ``cached_prompt`` defaults to the price of ``prompt``."""

    prompt: float = Field(ge=0)
    cached_prompt: float | None = Field(None, ge=0)
    completion: float = Field(ge=0)

    def cost(self, prompt: int, completion: int, cached: int = 0) -> float:
        """Dollars for these token counts; ``cached`` is a part of ``prompt``."""
        cached_price = self.prompt if self.cached_prompt is None else self.cached_prompt
        fresh = prompt - cached
        return (fresh * self.prompt + cached * cached_price + completion * self.completion) / 1e6


class LlmConfig(Section):
    """One named model under ``llms:``. What is not marked `Execution` is its identity."""

    model: str
    revision: str | None = None
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: tuple[str, ...] = ()

    engine: Annotated[Literal["auto", "vllm", "openai", "transformers"], Execution] = "auto"
    #: How often an unusable answer is asked again, with the error in view.
    reasks: Annotated[int, AddedWith(2)] = Field(2, ge=0)

    # An API (engine: openai)
    base_url: Annotated[str | None, Execution] = None
    api_keys_env: Annotated[list[str], Execution] = ["OPENAI_API_KEY"]
    #: The three limits hold for each key and for the whole cluster.
    concurrency: Annotated[int, Execution] = Field(256, ge=1)
    requests_per_minute: Annotated[int | None, Execution] = Field(None, ge=1)
    tokens_per_minute: Annotated[int | None, Execution] = Field(None, ge=1)
    timeout_seconds: Annotated[float, Execution] = Field(120.0, gt=0)
    max_tries: Annotated[int, Execution] = Field(8, ge=1)
    #: Ceiling of one wait between tries, and of all tries of a request together.
    max_backoff_seconds: Annotated[float, Execution] = Field(60.0, gt=0)
    give_up_after_seconds: Annotated[float, Execution] = Field(900.0, gt=0)
    usd_per_million: Annotated[Prices | None, Execution] = None
    #: Further fields of the request body, as the server takes them.
    extra_body: dict[str, Any] = {}

    # A local model (engine: vllm, transformers)
    actors: Annotated[int, Execution] = Field(1, ge=1)
    num_cpus: Annotated[float | None, Execution] = Field(None, ge=0)
    num_gpus: Annotated[float | None, Execution] = Field(None, ge=0)
    tensor_parallel_size: Annotated[int, Execution] = Field(1, ge=1)
    max_model_len: Annotated[int | None, AddedWith(None)] = Field(None, ge=16)
    max_num_seqs: Annotated[int, Execution] = Field(64, ge=1)
    batch_size: Annotated[int, Execution] = Field(32, ge=1)
    dtype: Annotated[str, AddedWith("bfloat16")] = "bfloat16"
    #: Name or folder of a LoRA adapter for the model.
    adapter: str | None = None
    #: Further arguments of vLLM's AsyncEngineArgs.
    engine_args: Annotated[dict[str, Any], Execution] = {}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.max_model_len is not None and self.max_tokens >= self.max_model_len:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) leaves no room for a prompt within max_model_len "
                f"({self.max_model_len}): lower the one or raise the other"
            )
        if self.num_gpus and self.tensor_parallel_size > max(1, self.num_gpus):
            raise ValueError(
                f"tensor_parallel_size ({self.tensor_parallel_size}) is more than num_gpus "
                f"({self.num_gpus:g}): leave num_gpus out, or make them equal"
            )
        return self

    def identity_with(self, weights: str) -> dict[str, Any]:
        """What changes this model's answers; ``weights`` tells its weights apart."""
        return {**self.identity(), "weights": weights}

    def resources(self, gpus_there: float) -> Resources:
        """What the actors of a local model need.

        Args:
            gpus_there: GPUs of the cluster. Where it has some and `num_gpus` says nothing, an actor
                takes as many as the model is spread over.
        """
        gpus = self.num_gpus
        if gpus is None:
            gpus = self.tensor_parallel_size if gpus_there else 0
        return Resources(self.actors, self.num_cpus or 0, gpus)

    def sampling(self) -> Sampling:
        """The model's defaults; a prompt may override them."""
        return Sampling(self.max_tokens, self.temperature, self.top_p, self.stop)


class Budget(Section):
    """Limits of a run. Money and tokens count over the whole run directory, restarts included."""

    max_cost_usd: float | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0)
    #: A whole number is a count of rows, a number below 1 a share of the source's rows.
    max_failed_rows: float = Field(0.05, ge=0)

    def failed_rows_allowed(self, source_rows: int) -> int:
        """How many rows may fail before the run stops."""
        limit = self.max_failed_rows
        return int(limit if limit >= 1 else limit * source_rows)


def engine_kind(config: LlmConfig) -> str:
    """``vllm``, ``openai`` or ``transformers``: `auto` takes vLLM where it is installed."""
    if config.engine != "auto":
        return config.engine
    from importlib.util import find_spec

    return "vllm" if find_spec("vllm") else "transformers"
