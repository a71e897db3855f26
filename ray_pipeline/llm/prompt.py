"""Prompt files: system part, user template, sampling, and the format of a usable answer.

```yaml
system: You rewrite quiz questions.
user: |
  Rewrite as a question: {{ question }}
examples:                                         # earlier turns of the chat, templates as well;
  - {user: "...", assistant: "..."}               # left out where the user part renders as empty
sampling: {max_tokens: 64, temperature: 0.0}      # overrides the model's defaults
answer: {format: text}                            # or {format: label, labels: [yes, no]}
                                                  # or {format: json, schema: {...}}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.sandbox
import yaml
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from pydantic import Field, ValidationError, model_validator

from ray_pipeline.core.config import Section
from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.types import AnswerFormat, Message, Sampling


class _Answer(Section):
    format: Literal["text", "label", "json"] = "text"
    labels: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    #: Whether an answer cut off at `max_tokens` is usable.
    allow_truncated: bool = False

    @model_validator(mode="after")
    def _complete(self) -> _Answer:
        if self.format == "label" and len(self.labels) < 2:
            raise ValueError("format: label needs at least two labels")
        if self.format == "json" and self.json_schema is None:
            raise ValueError("format: json needs a schema")
        return self


class _Sampling(Section):
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: tuple[str, ...] | None = None


class _Example(Section):
    user: str
    assistant: str


class _PromptFile(Section):
    description: str = ""
    system: str | None = None
    user: str
    examples: tuple[_Example, ...] = ()
    sampling: _Sampling = _Sampling()
    answer: _Answer = _Answer()


#: A compiled prompt: system part, user part, examples.
_Templates = tuple[
    jinja2.Template | None, jinja2.Template, list[tuple[jinja2.Template, jinja2.Template]]
]


@dataclass(frozen=True)
class Prompt:
    """A validated prompt file."""

    name: str
    system: str | None
    user: str
    sampling: Mapping[str, Any]
    format: AnswerFormat
    allow_truncated: bool = False
    #: Earlier turns of the chat: the user's part and the model's.
    examples: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, path: Path) -> Prompt:
        """Read and check a prompt file.

        Raises:
            UserError: not readable, not YAML, an unknown key, or a template that doesn't parse.
        """
        try:
            parsed = _PromptFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
            examples = tuple((turn.user, turn.assistant) for turn in parsed.examples)
            for template in (parsed.system or "", parsed.user, *chain(*examples)):
                _ENVIRONMENT.parse(template)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"prompt {path}: cannot be read: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UserError(f"prompt {path}: {where}: {first['msg']}") from None
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"prompt {path}: template, line {error.lineno}: {error.message}"
            ) from None
        answer = parsed.answer
        return cls(
            name=path.stem,
            system=parsed.system,
            user=parsed.user,
            sampling=parsed.sampling.model_dump(exclude_none=True),
            format=AnswerFormat(answer.format, answer.labels, answer.json_schema),
            allow_truncated=answer.allow_truncated,
            examples=examples,
        )

    def identity(self) -> dict[str, Any]:
        """All parts of the prompt that can change an answer, as plain data."""
        identity = {
            "system": self.system,
            "user": self.user,
            "sampling": dict(self.sampling),
            "format": [self.format.kind, list(self.format.labels), self.format.schema],
            "allow_truncated": self.allow_truncated,
        }
        return identity | ({"examples": self.examples} if self.examples else {})

    def to_yaml(self) -> str:
        """The prompt as YAML text that `load` can read."""
        answer: dict[str, Any] = {"format": self.format.kind}
        if self.format.labels:
            answer["labels"] = list(self.format.labels)
        if self.format.schema is not None:
            answer["schema"] = self.format.schema
        if self.allow_truncated:
            answer["allow_truncated"] = True
        sampling = {k: list(v) if isinstance(v, tuple) else v for k, v in self.sampling.items()}
        parts: dict[str, Any] = {"system": self.system, "user": self.user}
        parts |= {"sampling": sampling, "answer": answer}
        if self.examples:
            parts["examples"] = [
                {"user": user, "assistant": reply} for user, reply in self.examples
            ]
        return yaml.safe_dump(parts, sort_keys=False, allow_unicode=True)

    def variables(self) -> set[str]:
        """Names of the variables that the templates require."""
        sources = (self.system or "", self.user, *chain(*self.examples))
        return set().union(*(_needed(_ENVIRONMENT.parse(source)) for source in sources))

    def render(self, **values: Any) -> tuple[Message, ...]:
        """The chat messages for these values.

        Raises:
            jinja2.UndefinedError: a template uses a name that is not among the values.
        """
        system, user, examples = self._templates
        messages: list[Message] = []
        if system is not None:
            messages.append({"role": "system", "content": system.render(**values).strip()})
        for question, answer in examples:
            if text := question.render(**values).strip():
                messages.append({"role": "user", "content": text})
                messages.append({"role": "assistant", "content": answer.render(**values).strip()})
        return (*messages, {"role": "user", "content": user.render(**values).strip()})

    def merged_sampling(self, defaults: Sampling) -> Sampling:
        """The model's sampling defaults, overridden by this prompt's settings."""
        return replace(defaults, **self.sampling)

    @cached_property
    def _templates(self) -> _Templates:
        compiled = _ENVIRONMENT.from_string
        return (
            compiled(self.system) if self.system else None,
            compiled(self.user),
            [(compiled(user), compiled(reply)) for user, reply in self.examples],
        )

    def __getstate__(self) -> dict[str, Any]:
        # Compiled templates do not pickle, and are compiled once a worker.
        return {k: v for k, v in self.__dict__.items() if k != "_templates"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


# Sandboxed: a prompt file may come from somewhere else than the code. Strict: a missing value must
# not become an empty string in a paid request.
_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=False, autoescape=False
)


def _needed(template: nodes.Template) -> set[str]:
    """Variables that a template requires: not those under ``is defined`` or ``default``."""
    optional = {
        node.node.name
        for node in template.find_all((nodes.Test, nodes.Filter))
        if node.name in ("defined", "undefined", "default", "d")
        and isinstance(node.node, nodes.Name)
    }
    return find_undeclared_variables(template) - _ENVIRONMENT.globals.keys() - optional
