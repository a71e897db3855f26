"""The interface of a language model for stages: called with a prompt, it returns an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.rundir.responses import Response


@dataclass(frozen=True)
class Answer:
    """A usable answer."""

    text: str
    #: The text, the label, or the parsed JSON, depending on the prompt's answer format.
    value: Any
    response: Response

    @property
    def thinking(self) -> str:
        """What the model thought before it answered; empty if it did not, or not visibly."""
        return self.response.thinking or ""

    @property
    def is_cut(self) -> bool:
        """Whether the answer was cut off at the limit of tokens."""
        return self.response.is_cut


class Llm(Protocol):
    """The model a stage was configured with, for one row."""

    def __call__(
        self,
        prompt: Prompt,
        /,
        *,
        check: Callable[[str], str | None] | None = None,
        sample: int = 0,
        **values: Any,
    ) -> Awaitable[Answer]:
        """Ask, and ask again a bounded number of times until the answer is usable.

        Args:
            prompt: the prompt file to render.
            check: returns what is wrong with an answer's text, or None; the model sees it
                when it is asked again.
            sample: distinguishes several answers to the same question.
            values: values of the variables in the prompt's template.

        Raises:
            AnswerError: no usable answer came (the row fails as ``llm:CODE``).
            BudgetExhausted: the run stops.
        """
        ...


class AnswerError(Exception):
    """The model gave no usable answer for a row.

    Args:
        code: short and stable; the row fails as ``llm:CODE``.
        detail: an explanation for people.
        answer: what the model answered; None when no answer came (the request failed).
    """

    def __init__(self, code: str, detail: str = "", answer: str | None = None) -> None:
        super().__init__(f"llm:{code}" + (f": {detail}" if detail else ""))
        self.code = code
        self.detail = detail
        self.answer = answer
