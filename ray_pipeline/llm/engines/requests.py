"""The body of a chat completion, in the dialect of the server that gets it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import orjson

from ray_pipeline.llm.engines.error_bodies import error_fields
from ray_pipeline.llm.types import Request

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig


@dataclass(frozen=True)
class Dialect:
    """The request fields that this server accepts, learnt from the requests that it refused."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    left_out: frozenset[str] = frozenset()
    json_format: Literal["strict", "schema", "object", "none"] = "strict"

    def after_refusal(self, status: int, body: bytes) -> Dialect | None:
        """The dialect to try next if the server refused a field of the request; else None."""
        if status not in (400, 422):
            return None
        error = error_fields(body)
        text = f"{error.message} {error.param}"
        if "max_completion_tokens" in text and self.max_tokens_field == "max_tokens":
            return replace(self, max_tokens_field="max_completion_tokens")
        if re.search(r"response_format|json_schema|additionalProperties", text):
            softer = {"strict": "schema", "schema": "object", "object": "none"}
            if (json_format := softer.get(self.json_format)) is not None:
                return replace(self, json_format=json_format)  # type: ignore[arg-type]
        for field in ("seed", "temperature", "top_p"):
            if field not in self.left_out and _refuses(field, error.code, text):
                return replace(self, left_out=self.left_out | {field})
        return None


def _refuses(field: str, code: str, text: str) -> bool:
    unknown = code in ("unsupported_parameter", "unsupported_value") or _UNSUPPORTED.search(text)
    return bool(unknown) and re.search(rf"\b{field}\b", text) is not None


_UNSUPPORTED = re.compile(r"unsupported|unrecognized|not permitted|not supported", re.IGNORECASE)


def request_body(
    config: LlmConfig,
    request: Request,
    dialect: Dialect,
    extra_body: Mapping[str, Any] | None = None,
) -> bytes:
    """The JSON body of a request, in this server's dialect.

    Args:
        config: the model's configuration.
        request: the request.
        dialect: what the server accepts.
        extra_body: the configured one, with the values of the environment; None: it has none.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": config.model,
        "messages": request.messages,
        dialect.max_tokens_field: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.sampling_seed(),
    }
    if sampling.stop:
        body["stop"] = sampling.stop
    # A label is requested as plain text: no way to force one works on every server, and the
    # answer is checked against the labels anyway.
    if request.format.kind == "json" and dialect.json_format != "none":
        body["response_format"] = _response_format(request.format.schema or {}, dialect)
    for field in dialect.left_out:
        del body[field]
    if config.chat_template_kwargs:
        body["chat_template_kwargs"] = config.chat_template_kwargs
    body.update(config.extra_body if extra_body is None else extra_body)
    return orjson.dumps(body)


def _response_format(schema: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    if dialect.json_format == "object":
        return {"type": "json_object"}
    strict = dialect.json_format == "strict"
    form = {"name": "answer", "schema": schema, "strict": strict}
    return {"type": "json_schema", "json_schema": form}
