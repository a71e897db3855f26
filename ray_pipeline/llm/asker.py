"""Asks a model for one unit's rows: durable responses, one call for identical requests, re-asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jsonschema
import orjson

from ray_pipeline.core.errors import RunError, Stopping
from ray_pipeline.llm.asking import Answer, AnswerError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat, Engine, EngineError, Message, Request
from ray_pipeline.rundir.account import LlmUsage
from ray_pipeline.rundir.responses import Journal, NoAnswer, Response


@dataclass(frozen=True)
class RequestTemplate:
    """The fields that all requests of one stage share."""

    #: Name of the stage.
    stage: str
    #: The model's configuration.
    llm: LlmConfig
    #: Identity of the model's weights.
    revision: str
    #: The run's seed.
    seed: int

    def request(self, prompt: Prompt, messages: tuple[Message, ...], sample: int = 0) -> Request:
        """The complete request: the prompt's sampling over the model's defaults."""
        return Request(
            stage=self.stage,
            model=self.llm.model,
            revision=self.revision,
            messages=messages,
            sampling=prompt.merged_sampling(self.llm.sampling()),
            format=prompt.format,
            seed=self.seed,
            sample=sample,
        )


class UnitAsker:
    """Sends a stage's requests for one unit to an engine, and stores the responses.

    Args:
        template: the fields that the stage's requests share.
        engine: answers the requests that have no stored response.
        journal: the unit's responses.
        ask_afresh: ids of rows for which stored answers that were unusable are requested again.
    """

    def __init__(
        self,
        template: RequestTemplate,
        engine: Engine,
        journal: Journal,
        ask_afresh: Collection[str] = (),
    ) -> None:
        self._template = template
        self._engine = engine
        self._journal = journal
        self._ask_afresh = ask_afresh
        # Only answers rejected by earlier attempts are requested again, not those of this attempt.
        self._rejected_before = frozenset(journal.rejected)
        self._answers: dict[str, asyncio.Future[Response]] = {}
        self._stopping = False
        self.usage = LlmUsage()

    def stop(self) -> None:
        """Send no further requests; those in flight continue."""
        self._stopping = True

    async def abandon(self) -> None:
        """End the requests that are still in flight, and record that they got no answer.

        Raises:
            RunError: that cannot be written.
        """
        self.stop()
        for pending in self._answers.values():
            pending.cancel()
        ends = await asyncio.gather(*self._answers.values(), return_exceptions=True)
        if errors := [end for end in ends if isinstance(end, RunError)]:
            raise errors[0]

    def for_row(self, row_id: str) -> RowAsker:
        """The callable through which a stage asks the model about one row."""
        return RowAsker(self, row_id)

    def request(self, prompt: Prompt, messages: tuple[Message, ...], sample: int) -> Request:
        """See `RequestTemplate.request`."""
        return self._template.request(prompt, messages, sample)

    @property
    def reasks(self) -> int:
        """Maximum number of times that an unusable answer is requested again."""
        return self._template.llm.reasks

    async def respond(self, request: Request, key: str, row_id: str) -> Response:
        """Return the response from storage, from an identical request in flight, or the engine."""
        if (pending := self._answers.get(key)) is None:
            pending = asyncio.ensure_future(self._fetch(request, key, row_id))
            self._answers[key] = pending
        # Shielded: a cancelled row must not cancel the request for other rows that wait for it.
        return await asyncio.shield(pending)

    async def _fetch(self, request: Request, key: str, row_id: str) -> Response:
        stored = self._journal.stored.get(key)
        if stored is not None and row_id in self._ask_afresh and key in self._rejected_before:
            stored = None
        if stored is not None:
            self.usage.reused += 1
            self._count_tokens(stored)
            return stored
        if self._stopping:
            raise Stopping
        try:
            response = await self._engine.generate(request)
        except EngineError as error:
            lost = (error.lost_tokens, error.lost_usd)
            ended = NoAnswer(error.code, error.attempts, error.raw, *lost)
            self._end_without_answer(key, row_id, request, ended)
            raise
        except asyncio.CancelledError:
            # The run stops and does not wait for this reply. Whether it was billed nobody knows.
            self._end_without_answer(key, row_id, request, NoAnswer("stopped"))
            raise
        # The slot that this answer freed belongs to another request by now: send that one before
        # writing the journal. Otherwise requests bunch up, and the server waits for the client.
        try:
            await asyncio.sleep(0)
        finally:
            self._journal.append(key, row_id, request.model, response)
        self.usage.requests += 1
        self.usage.retries += response.attempts - 1
        self._count_tokens(response)
        return response

    def _end_without_answer(self, key: str, row_id: str, request: Request, ended: NoAnswer) -> None:
        self.usage.requests += 1
        self.usage.unanswered += 1
        self.usage.retries += ended.attempts - 1
        self.usage.lost_tokens += ended.lost_tokens
        self.usage.lost_usd += ended.lost_usd
        self._journal.append_no_answer(key, row_id, request.model, ended)

    def _count_tokens(self, response: Response) -> None:
        self.usage.prompt_tokens += response.prompt_tokens
        self.usage.completion_tokens += response.completion_tokens
        self.usage.cached_prompt_tokens += response.cached_prompt_tokens
        self.usage.cost_usd += response.cost_usd
        self.usage.lost_tokens += response.lost_tokens
        self.usage.lost_usd += response.lost_usd

    def reject(self, key: str) -> None:
        """Record in the journal that the answer was unusable."""
        self._journal.reject(key)


class RowAsker:
    """Implements `ray_pipeline.llm.asking.Llm` for one row."""

    def __init__(self, unit: UnitAsker, row_id: str) -> None:
        self._unit = unit
        self._row_id = row_id

    async def __call__(
        self,
        prompt: Prompt,
        /,
        *,
        check: Callable[[str], str | None] | None = None,
        sample: int = 0,
        **values: Any,
    ) -> Answer:
        messages = prompt.render(**values)
        for remaining in range(self._unit.reasks, -1, -1):
            request = self._unit.request(prompt, messages, sample)
            key = request.key()
            try:
                response = await self._unit.respond(request, key, self._row_id)
            except EngineError as error:
                # Asking again would trigger the content filter again.
                filtered = "" if error.code == "content_filter" else None
                raise AnswerError(error.code, error.detail, answer=filtered) from None
            code, complaint, value = judge(response, prompt, check)
            if not code:
                return Answer(response.text, value, response)
            self._unit.reject(key)
            if remaining == 0 or code == "content_filter":
                detail = f"{complaint}; the answer was {_short(response.text)!r}"
                raise AnswerError(code, detail, answer=response.text)
            messages = _with_complaint(messages, response.text, complaint)
        raise AssertionError("unreachable")


def judge(
    response: Response, prompt: Prompt, check: Callable[[str], str | None] | None
) -> tuple[str, str, Any]:
    """Whether a response is usable: ``("", "", value)``, or a code and a complaint."""
    text = response.text.strip()
    if response.finish_reason == "content_filter":
        return "content_filter", "the provider's content filter stopped the answer", None
    if not text:
        return "empty", "the answer is empty", None
    if response.finish_reason == "length" and not prompt.allow_truncated:
        return "truncated", "the answer was cut off at the token limit: be shorter", None
    try:
        value = parse(text, prompt.format)
    except ValueError as error:
        return f"not_{prompt.format.kind}", str(error), None
    if check is not None and (complaint := check(text)) is not None:
        return "unusable", complaint, None
    return "", "", value


def parse(text: str, answer_format: AnswerFormat) -> Any:
    """Parse the value of an answer.

    Raises:
        ValueError: the text is not one of the labels, or not JSON for the schema; the message is
            part of the next request to the model.
    """
    if answer_format.kind == "label":
        return _label(text, answer_format.labels)
    if answer_format.kind == "json":
        return _json(text, answer_format.schema or {})
    return text


def _label(text: str, labels: tuple[str, ...]) -> str:
    bare = text.strip().strip("\"'`.*").casefold()
    for label in labels:
        if bare == label.casefold():
            return label
    # A server without guided decoding may return the label wrapped in JSON.
    try:
        wrapped = orjson.loads(text)
    except orjson.JSONDecodeError:
        wrapped = None
    if isinstance(wrapped, dict) and len(wrapped) == 1:
        return _label(str(next(iter(wrapped.values()))), labels)
    raise ValueError(f"answer with exactly one of: {', '.join(labels)}")


def _json(text: str, schema: dict[str, Any]) -> Any:
    body = text.strip()
    if body.startswith("```"):
        body = body.strip("`").removeprefix("json")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the answer is not JSON: {error}") from None
    try:
        jsonschema.validate(value, schema)
    except jsonschema.ValidationError as error:
        raise ValueError(f"the JSON does not fit the schema: {error.message}") from None
    return value


def _with_complaint(
    messages: tuple[Message, ...], answer: str, complaint: str
) -> tuple[Message, ...]:
    unusable: Message = {"role": "assistant", "content": answer}
    complaint_turn: Message = {
        "role": "user",
        "content": f"That answer cannot be used: {complaint}. Answer again.",
    }
    return (*messages, unusable, complaint_turn)


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
