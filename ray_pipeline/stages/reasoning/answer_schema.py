"""The JSON answer that a reasoning prompt asks for: bounded text fields, and the label at the end.

A model that writes the label first does not reason about it any more, and a field without a limit
may take all tokens before the label. So a prompt whose schema has either is refused before a run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.prompt import Prompt

LABEL = "label"


@dataclass(frozen=True)
class AnswerFields:
    """The fields of a prompt's answers.

    Attributes:
        texts: names of the text fields, in order; all of them stand before the label.
        labels: what the label may be.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def thoughts(self, value: Mapping[str, Any]) -> str:
        """The text fields of an answer as one text: alone, or with a line for each."""
        if len(self.texts) == 1:
            return str(value[self.texts[0]]).strip()
        lines = (f"{_title(name)}: {str(value[name]).strip()}" for name in self.texts)
        return "\n".join(lines)


def answer_fields(
    prompt: Prompt, labels: Sequence[str], needed: Sequence[str] = ()
) -> AnswerFields:
    """The fields of a prompt's answers, checked.

    Args:
        prompt: the prompt.
        labels: the labels of the run.
        needed: text fields that the schema must have.

    Raises:
        UserError: the schema does not fit; the message says how to write it.
    """
    schema = prompt.format.schema or {}
    properties: Mapping[str, Any] = schema.get("properties") or {}
    names, required = list(properties), set(schema.get("required") or ())
    problem = None
    if prompt.format.kind != "json" or not names:
        problem = "the answer needs `format: json` with a schema"
    elif names[-1] != LABEL:
        problem = "the label must be the last of `properties`: reasoning comes before it"
    elif sorted(properties[LABEL].get("enum") or ()) != sorted(labels):
        problem = f"`label` needs `enum: [{', '.join(labels)}]`, the labels of validate-pairs"
    elif missing := [name for name in needed if name not in names]:
        problem = f"the schema has no {', '.join(missing)}"
    elif absent := [name for name in names if name not in required]:
        problem = f"{', '.join(absent)} must be under `required`"
    else:
        unbounded = [
            name
            for name in names[:-1]
            if properties[name].get("type") != "string" or "maxLength" not in properties[name]
        ]
        if unbounded:
            problem = (
                f"{', '.join(unbounded)} must be of type string with a maxLength: without one a "
                "model may write until its limit of tokens, and no label comes"
            )
    if problem is not None:
        raise UserError(
            f"prompt {prompt.name}: {problem}. See configs/prompts/nli_reasoning/think.yaml"
        )
    return AnswerFields(tuple(names[:-1]), tuple(labels))


def wrong_answer(text: str, fields: AnswerFields, premise: str) -> str | None:
    """What is wrong with an answer that fits the schema, for the model; None if nothing is.

    Args:
        text: the answer, as JSON.
        fields: of the answer.
        premise: of the pair, whose script the reasoning should have.
    """
    try:
        pairs = orjson.loads(text.strip().removeprefix("```json").strip("`"))
    except orjson.JSONDecodeError:
        return None  # the schema's check has the words for it
    if len(re.findall(rf'"{LABEL}"\s*:', text)) > 1:
        return "it has two labels: give one"
    thoughts = fields.thoughts(pairs)
    if not any(str(pairs[name]).strip() for name in fields.texts):
        return "the reasoning is empty: reason first, then give the label"
    if is_other_script(thoughts, premise):
        return "the reasoning is in another language than the premise"
    said = concluded(thoughts, fields.labels)
    if said is not None and said != pairs[LABEL]:
        return f"the reasoning concludes {said!r}, and the label is {pairs[LABEL]!r}: make them one"
    return None


def concluded(thoughts: str, labels: Sequence[str]) -> str | None:
    """The label that the last sentence of a reasoning concludes; None if it names none, or several.

    A sentence with a negation ("so it is not a contradiction") concludes nothing that can be read
    without understanding it.
    """
    sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n", thoughts.strip()) if part.strip()]
    if not sentences:
        return None
    last = sentences[-1].casefold()
    if not re.search(r"\b(?:therefore|thus|so|hence|label|answer|verdict|conclu\w+)\b", last):
        return None
    if re.search(r"\b(?:not|no|neither|nor|cannot|without)\b|n't\b", last):
        return None
    named = [label for label in labels if re.search(rf"\b{re.escape(label.casefold())}\b", last)]
    return named[0] if len(named) == 1 else None


def is_other_script(text: str, like: str) -> bool:
    """Whether most letters of a text are of a script that most letters of another one are not of.

    It tells Chinese from English, not German from English: that is the label set's to refuse.
    """
    of_text, of_other = _is_latin(text), _is_latin(like)
    return of_text is not None and of_other is not None and of_text != of_other


def _is_latin(text: str) -> bool | None:
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    return sum(character < "\u0250" for character in letters) * 2 > len(letters)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
