"""Configuration of the language models that stages name."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from ray_pipeline.core.config import AddedWith, Execution, Section
from ray_pipeline.core.redaction import literal_secrets, parts_of, remember
from ray_pipeline.core.references import resolve, values_in
from ray_pipeline.core.resources import Resources
from ray_pipeline.core.shares import CountOrShare, count_of
from ray_pipeline.llm.engines import ENGINES, engine_type, kind_of
from ray_pipeline.llm.types import Sampling
from ray_pipeline.models.vllm import changing

if TYPE_CHECKING:
    from ray_pipeline.llm.engines.base import BaseEngine


class Prices(Section):
    """US dollars per million tokens."""

    prompt: float = Field(ge=0, description="US dollars per million prompt tokens")
    cached_prompt: float | None = Field(
        None,
        ge=0,
        description="US dollars per million prompt tokens that the server read from its "
        "cache; null: the price in `prompt`",
    )
    completion: float = Field(ge=0, description="US dollars per million answer tokens")

    def cost(self, prompt: int, completion: int, cached: int = 0) -> float:
        """Dollars for these token counts; ``cached`` is a part of ``prompt``."""
        cached_price = self.prompt if self.cached_prompt is None else self.cached_prompt
        fresh = prompt - cached
        return (fresh * self.prompt + cached * cached_price + completion * self.completion) / 1e6


#: Arguments of `apply_chat_template` that are no variables of a template.
_TEMPLATE_ARGUMENTS = frozenset(
    {"conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
    | {"padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"}
    | {"return_assistant_tokens_mask"}
)


#: The name of an environment variable, and that of a header.
_VARIABLE, _HEADER = re.compile(r"[A-Za-z_]\w*", re.ASCII), re.compile(r"[\w!#$%&'*+.^`|~-]+")
_OWN_HEADERS = {"content-type", "content-length", "host", "transfer-encoding"}


#: Fields in which ``${NAME}`` is the value of an environment variable.
_MAY_NAME_VARIABLES = ("base_url", "headers", "extra_body", "engine_args")


class LlmConfig(Section):
    """A language model under ``llms:``. The fields not marked `Execution` are its identity."""

    model: str = Field(
        description="the model: its name on the server, a packaged model, a model that a run "
        "trained, a folder, or a Hugging Face id"
    )
    revision: str | None = Field(
        None,
        description="Hugging Face revision of the weights (branch, tag or commit); null: the "
        "newest",
    )
    max_tokens: int = Field(256, ge=1, description="maximum length of an answer, in tokens")
    temperature: float = Field(
        0.7, ge=0, description="sampling temperature; 0 always takes the most likely token"
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="nucleus sampling: sample from the most likely tokens that together have "
        "this probability",
    )
    stop: tuple[str, ...] = Field(
        (),
        description="stop sequences: generation ends at any of these texts, which is not "
        "part of the answer",
    )

    engine: Annotated[str, Execution] = Field(
        "auto",
        description="engine that runs the model: `openai` (any server with OpenAI's chat "
        "completions API), `vllm`, `transformers`, or `package.module:Class` for an engine "
        "of your own; `auto` is vllm if it is installed, else transformers",
    )
    reasks: Annotated[int, AddedWith(2)] = Field(
        2,
        ge=0,
        description="maximum number of times an unusable answer is requested again; the new "
        "prompt includes the answer and what is wrong with it",
    )

    split_thinking: Annotated[bool, AddedWith(True)] = Field(
        True,
        description="split off what a reasoning model writes before its answer, such as "
        "`<think>...</think>`; false: it stays part of the answer",
    )
    chat_template_kwargs: Annotated[dict[str, Any], AddedWith({})] = Field(
        {},
        description="variables of the model's chat template, such as `enable_thinking: false`; "
        "servers are sent them as a field of the request, which vLLM, SGLang and llama.cpp read",
    )

    # Servers
    base_url: Annotated[str | None, Execution] = Field(
        None,
        description="URL of the server, up to and including `/v1`; null: OpenAI's own. A user, a "
        "password or a key in it is written as `${NAME}`, for the environment variable with that "
        "name: `https://${LLM_USER}:${LLM_PASSWORD}@host/v1`",
    )
    headers: Annotated[dict[str, str], Execution] = Field(
        {},
        description="further headers of each request, as `api-key: ${AZURE_KEY}`; `${NAME}` is "
        "the value of an environment variable, and a secret is refused in any other form",
    )
    api_keys_env: Annotated[list[str], Execution] = Field(
        ["OPENAI_API_KEY"],
        description="names of environment variables that hold API keys; requests are spread "
        "over the keys; empty for a server without keys",
    )
    concurrency: Annotated[int, Execution] = Field(
        256,
        ge=1,
        description="maximum number of requests in flight per API key, over the whole cluster",
    )
    requests_per_minute: Annotated[int | None, Execution] = Field(
        None,
        ge=1,
        description="maximum number of requests started per minute and API key, over the "
        "whole cluster; null: no limit",
    )
    tokens_per_minute: Annotated[int | None, Execution] = Field(
        None,
        ge=1,
        description="maximum number of tokens (prompts and answers) per minute and API key, "
        "over the whole cluster; null: no limit",
    )
    timeout_seconds: Annotated[float, Execution] = Field(
        120.0, gt=0, description="time-out of one try of a request, in seconds"
    )
    max_tries: Annotated[int, Execution] = Field(
        8,
        ge=1,
        description="maximum number of tries of a request; after the last one its row fails",
    )
    max_backoff_seconds: Annotated[float, Execution] = Field(
        60.0, gt=0, description="maximum wait between two tries of a request, in seconds"
    )
    give_up_after_seconds: Annotated[float, Execution] = Field(
        900.0,
        gt=0,
        description="maximum time for all tries of a request together, in seconds; its row "
        "then fails. If the server itself asked for a longer pause, with every key, the run "
        "stops instead, and continues when it is run again",
    )
    usd_per_million: Annotated[Prices | None, Execution] = Field(
        None,
        description="token prices, used to compute costs and to enforce "
        "`budget.max_cost_usd`; null: requests are free",
    )
    extra_body: dict[str, Any] = Field(
        {},
        description="further fields of the request's JSON body, for options that only this "
        "server accepts; `${NAME}` in a text is the value of an environment variable, and a "
        "secret is refused in any other form",
    )

    # Models in this cluster
    actors: Annotated[int, Execution] = Field(
        1,
        ge=1,
        description="number of copies of a local model; for a server, number of processes "
        "that send requests",
    )
    num_cpus: Annotated[float | None, Execution] = Field(
        None, ge=0, description="CPUs reserved for each copy; null: none"
    )
    num_gpus: Annotated[float | None, Execution] = Field(
        None,
        ge=0,
        description="GPUs reserved for each copy; null: `tensor_parallel_size` if the "
        "cluster has GPUs, else none",
    )
    tensor_parallel_size: Annotated[int, Execution] = Field(
        1, ge=1, description="number of GPUs that one copy is spread over (vllm)"
    )
    max_model_len: Annotated[int | None, AddedWith(None)] = Field(
        None,
        ge=16,
        description="maximum length of prompt and answer together, in tokens; null: what the "
        "model supports",
    )
    max_num_seqs: Annotated[int, Execution] = Field(
        64,
        ge=1,
        description="maximum number of requests that one copy processes at the same time (vllm)",
    )
    batch_size: Annotated[int, Execution] = Field(
        32, ge=1, description="maximum number of requests per batch (transformers)"
    )
    dtype: Annotated[str, AddedWith("bfloat16")] = Field(
        "bfloat16", description="data type of the weights, such as bfloat16 or float32"
    )
    adapter: str | None = Field(
        None, description="name or folder of a LoRA adapter to apply to the model"
    )
    engine_args: Annotated[dict[str, Any], AddedWith({})] = Field(
        {},
        description="further arguments of vLLM's `AsyncEngineArgs` (vllm); `${NAME}` in a text is "
        "the value of an environment variable",
    )

    @field_validator("engine")
    @classmethod
    def _is_known(cls, engine: str) -> str:
        kind = kind_of(engine)
        if kind not in ENGINES:
            engine_type(kind)  # raises where there is none
        return engine

    @field_validator("api_keys_env")
    @classmethod
    def _are_names(cls, variables: list[str]) -> list[str]:
        if not all(_VARIABLE.fullmatch(variable) for variable in variables):
            # Not shown: it may be the key itself.
            raise ValueError(
                "expected names of environment variables, such as OPENAI_API_KEY, and found "
                "something else: put the key into an environment variable, and name that"
            )
        return variables

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or not (value.isascii() and value.isprintable()):
                raise ValueError(f"{name!r} is not a header: a name and a text of ASCII letters")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"{name}: set by the engine, leave it out")
        return headers

    @field_validator("chat_template_kwargs")
    @classmethod
    def _are_of_the_template(cls, switches: dict[str, Any]) -> dict[str, Any]:
        if ours := sorted(_TEMPLATE_ARGUMENTS & switches.keys()):
            raise ValueError(f"{', '.join(ours)}: set by the engine, leave it out")
        return switches

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

    @property
    def kind(self) -> str:
        """The kind of engine, with ``auto`` resolved for this machine."""
        return kind_of(self.engine)

    @property
    def engine_type(self) -> type[BaseEngine]:
        """The class of the engine."""
        return engine_type(self.kind)

    def identity(self) -> dict[str, Any]:
        """The settings that change this model's answers, without the identity of its weights."""
        data = super().identity()
        if arguments := changing(data.pop("engine_args", {})):
            data["engine_args"] = arguments
        return data

    def identity_with(self, weights: str) -> dict[str, Any]:
        """The settings that change this model's answers, and ``weights``, the weights' identity."""
        return {**self.identity(), "weights": weights}

    def options(self) -> dict[str, Any]:
        """The settings that change answers, beyond the fields that a `Request` has for them."""
        elsewhere = {"model", "revision", "max_tokens", "temperature", "top_p", "stop", "reasks"}
        elsewhere |= {"split_thinking", "max_model_len"}
        return {k: v for k, v in self.identity().items() if v and k not in elsewhere}

    def check_environment(self, where: str) -> None:
        """Check that the environment variables which the settings name as ``${NAME}`` are set.

        Raises:
            UserError: one is not set; the message names it.
        """
        for name in _MAY_NAME_VARIABLES:
            resolve(getattr(self, name), f"{where}.{name}")
        self.remember_secrets()

    def remember_secrets(self) -> None:
        """Hide the secrets that the settings name, or hold, in this process from now on."""
        settings = {name: getattr(self, name) for name in _MAY_NAME_VARIABLES}
        secrets = [os.environ.get(name, "").strip() for name in self.api_keys_env]
        secrets += values_in(settings)
        # Those of a run directory from before plain text was refused.
        secrets += [part for _, value, _ in literal_secrets(settings) for part in parts_of(value)]
        for secret in secrets:
            remember(secret)

    def resources(self, gpus_there: float) -> Resources:
        """Number of actors of a local model, and the CPUs and GPUs of each.

        Args:
            gpus_there: GPUs of the cluster, for engines that use a GPU if there is one.
        """
        gpus = self.engine_type.gpus(self, gpus_there)
        return Resources(self.actors, self.num_cpus or 0, gpus)

    def sampling(self) -> Sampling:
        """The model's defaults; a prompt may override them."""
        return Sampling(self.max_tokens, self.temperature, self.top_p, self.stop)


class Budget(Section):
    """Limits of a run. Cost and tokens accumulate in the run directory over all restarts."""

    max_cost_usd: float | None = Field(
        None,
        ge=0,
        description="US dollars that all requests together may cost; the run stops (exit "
        "code 3) before exceeding it; null: no limit",
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        description="tokens that all prompts and answers together may have; the run stops "
        "(exit code 3) before exceeding it; null: no limit",
    )
    max_failed_rows: CountOrShare = Field(
        "5%",
        description="rows that may fail before the run stops: an integer is a count (`20`), a "
        "percentage a share of the source's rows (`5%`); a fraction below 1 is a share, too "
        "(`0.05`), and a decimal number of 1 or more is refused",
    )

    def failed_rows_allowed(self, source_rows: int) -> int:
        """How many rows may fail before the run stops."""
        return count_of(self.max_failed_rows, source_rows)
