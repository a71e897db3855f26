"""Asks a model for one unit's rows: durable responses, one call for identical requests, re-asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonschema
import orjson

from ray_pipeline.core.errors import RunError, Stopping
from ray_pipeline.llm.asking import Answer, AnswerError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat, Cancelled, Engine, EngineError, Message, Request
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
    #: The model's name under ``llms``, for messages.
    name: str = "NAME"

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
            options=self._options,
        )

    @cached_property
    def _options(self) -> dict[str, Any]:
        return self.llm.options()

    def limit(self, prompt: Prompt) -> str:
        """The setting that limits an answer's tokens, and its value, for messages."""
        for field in ("max_completion_tokens", "max_tokens"):
            if (tokens := self.llm.extra_body.get(field)) is not None:
                return f"llms.{self.name}.extra_body.{field} (now {tokens})"
        if (tokens := prompt.sampling.get("max_tokens")) is not None:
            return f"sampling.max_tokens of the prompt {prompt.name!r} (now {tokens})"
        return f"llms.{self.name}.max_tokens (now {self.llm.max_tokens})"


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
        #: Called at once with the error when something cannot be stored. Whoever waits for the
        #: row's task learns of it some turns of the event loop later, and would send until then.
        self.cannot_store: Callable[[RunError], None] = lambda _: None
        #: Number of the unit's rows that are not done.
        self.rows_waiting = 0
        self.usage = LlmUsage()
        #: Characters of replies that became U+FFFD.
        self.replaced_characters = 0
        #: Rows for which an answer that was cut off at its limit of tokens was used.
        self.cut_rows: set[str] = set()

    def count_waiting(self, rows: Sequence[asyncio.Future[Any]]) -> None:
        """Keep `rows_waiting`, the number of these rows that are not done."""
        self.rows_waiting = len(rows)
        for row in rows:
            row.add_done_callback(self._row_done)

    def _row_done(self, _: asyncio.Future[Any]) -> None:
        self.rows_waiting -= 1

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

    def limit(self, prompt: Prompt) -> str:
        """See `RequestTemplate.limit`."""
        return self._template.limit(prompt)

    @property
    def timeout_seconds(self) -> float:
        """Seconds that one try of a request may take."""
        return self._template.llm.timeout_seconds

    async def respond(self, request: Request, key: str, row_id: str) -> Response:
        """The response from storage, from an identical request in flight, or the engine.

        Its thinking is apart from its text; the journal stores it as it arrived.
        """
        if (pending := self._answers.get(key)) is None:
            pending = asyncio.ensure_future(self._fetch(request, key, row_id))
            self._answers[key] = pending
        # Shielded: a cancelled row must not cancel the request for other rows that wait for it.
        return await asyncio.shield(pending)

    async def _fetch(self, request: Request, key: str, row_id: str) -> Response:
        if key not in self._journal.stored:
            old_key = request.key_without_options()
            key = old_key if old_key in self._journal.keyed_without_options else key
        stored = self._journal.stored.get(key)
        is_rejected = not self._rejected_before.isdisjoint((key, request.key()))
        if stored is not None and row_id in self._ask_afresh and is_rejected:
            stored = None
        if stored is not None:
            self.usage.reused += 1
            self._count_tokens(stored)
            return self._apart(stored)
        key = request.key()
        if self._stopping:
            raise Stopping
        try:
            response = await self._engine.generate(request)
        except EngineError as error:
            lost = (error.lost_tokens, error.lost_usd)
            ended = NoAnswer(error.code, error.attempts, error.raw, *lost)
            self._end_without_answer(key, row_id, request, ended)
            raise
        except Cancelled as error:
            # The run stops and does not wait for this reply. Whether it was billed nobody knows.
            lost = (error.lost_tokens, error.lost_usd)
            ended = NoAnswer("stopped", error.attempts, None, *lost)
            self._end_without_answer(key, row_id, request, ended)
            raise
        # The slot that this answer freed belongs to another request by now: send that one before
        # writing the journal. Otherwise requests bunch up, and the server waits for the client.
        try:
            await asyncio.sleep(0)
        finally:
            apart = self._apart(response)
            if not response.reasoning_tokens:
                response.reasoning_tokens = _thinking_share(apart)
            with self._stopping_if_it_fails():
                self._journal.append(key, row_id, request.model, response)
        self.usage.requests += 1
        self.usage.retries += response.attempts - 1
        self._count_tokens(response)
        return apart

    def _apart(self, response: Response) -> Response:
        return response.apart() if self._template.llm.split_thinking else response

    def _end_without_answer(self, key: str, row_id: str, request: Request, ended: NoAnswer) -> None:
        self.usage.requests += 1
        self.usage.unanswered += 1
        self.usage.retries += ended.attempts - 1
        self.usage.lost_tokens += ended.lost_tokens
        self.usage.lost_usd += ended.lost_usd
        with self._stopping_if_it_fails():
            self._journal.append_no_answer(key, row_id, request.model, ended)

    def _count_tokens(self, response: Response) -> None:
        self.usage.prompt_tokens += response.prompt_tokens
        self.usage.completion_tokens += response.completion_tokens
        self.usage.cached_prompt_tokens += response.cached_prompt_tokens
        self.usage.cost_usd += response.cost_usd
        self.usage.lost_tokens += response.lost_tokens
        self.usage.lost_usd += response.lost_usd
        self.usage.reasoning_tokens += response.reasoning_tokens
        self.usage.cut += response.is_cut
        self.replaced_characters += response.replaced_characters

    def reject(self, key: str) -> None:
        """Record in the journal that the answer was unusable."""
        with self._stopping_if_it_fails():
            self._journal.reject(key)

    @contextlib.contextmanager
    def _stopping_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except RunError as error:
            self.stop()
            self.cannot_store(error)
            raise


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
                if response.is_cut:
                    self._unit.cut_rows.add(self._row_id)
                return Answer(response.text, value, response)
            self._unit.reject(key)
            if remaining == 0 or code == "content_filter" or _is_cut_before_answer(response):
                detail = self._detail(code, complaint, response, prompt)
                raise AnswerError(code, detail, answer=response.text)
            messages = _with_complaint(messages, response.text, complaint)
        raise AssertionError("unreachable")

    def _detail(self, code: str, complaint: str, response: Response, prompt: Prompt) -> str:
        """What is wrong with an answer, for people: with the answer and how to fix it."""
        if code == "empty" and response.thinking:
            return f"{complaint}; it thought {_short(response.thinking)!r}"
        if code != "length":
            return f"{complaint}; the answer was {_short(response.text)!r}"
        fix = f"raise {self._unit.limit(prompt)}"
        if _is_cut_before_answer(response):
            fix += (
                ", or let the model think less (a server: extra_body: {reasoning_effort: low}; "
                "a local model: chat_template_kwargs: {enable_thinking: false})"
            )
            return f"{complaint}; {fix}"
        fix += f", or use cut answers (answer: {{allow_truncated: true}} in {prompt.name}.yaml)"
        return f"{complaint}; {fix}; the answer was {_short(response.text)!r}"


def judge(
    response: Response, prompt: Prompt, check: Callable[[str], str | None] | None
) -> tuple[str, str, Any]:
    """Whether a response is usable: ``("", "", value)``, or a code and a complaint."""
    text = response.text.strip()
    if response.finish_reason == "content_filter":
        return "content_filter", "the provider's content filter stopped the answer", None
    if _is_cut_before_answer(response):
        where = "while the model was thinking" if response.thinking else "before the answer began"
        return "length", f"the limit of tokens was reached {where}", None
    if not text:
        thought = "the model thought and gave no answer"
        return "empty", thought if response.thinking else "the answer is empty", None
    if response.is_cut and not prompt.allow_truncated:
        return "length", "the answer was cut off at the limit of tokens: be shorter", None
    try:
        value = parse(text, prompt.format)
    except ValueError as error:
        return f"not_{prompt.format.kind}", str(error), None
    if check is not None and (complaint := check(text)) is not None:
        return "unusable", complaint, None
    return "", "", value


def _is_cut_before_answer(response: Response) -> bool:
    """Whether the limit of tokens was reached before the answer: it would be reached again."""
    return response.is_cut and not response.text.strip()


def _thinking_share(response: Response) -> int:
    """Estimated tokens of a response's thinking: its share of the bytes.

    Args:
        response: with its thinking apart from its text.
    """
    thinking, answer = len((response.thinking or "").encode()), len(response.text.encode())
    return round(response.completion_tokens * thinking / (thinking + answer)) if thinking else 0


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
