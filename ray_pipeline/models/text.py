"""Rows of questions and answers → token ids with a mask of the answer. Every row comes out.

A training text is a prompt and its answer. Only answer tokens, the end of text among them, are
learnt; ``learn: all`` learns the prompt too, which a model that is trained from scratch needs. The
mask says which they are; labels are never marked by the padding token, which many tokenizers share
with the end of text (trl#6357: such a model never learns to stop).

The ids begin with exactly those that the prompt alone gives, because that is what the model sees
when it is asked: the whole text is tokenised at once, and where a token spans the border of prompt
and answer, the two are tokenised apart. A question or an answer that spells a control token is text
(`control_tokens`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.config import AddedWith, Section
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import DROPPED, KEPT
from ray_pipeline.models.control_tokens import ControlTokens, rows_with_control_text

NO_QUESTION = "tokens:no_question"
NO_ANSWER = "tokens:no_answer"
PROMPT_TOO_LONG = "tokens:prompt_too_long"
TOO_LONG = "tokens:too_long"
TEMPLATE = "tokens:template"

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("answer_mask", pa.list_(pa.bool_())),
        pa.field("tokens_cut", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)


class TextConfig(Section):
    """How a row becomes a training text."""

    style: Literal["auto", "chat", "plain"] = Field(
        "auto",
        description="how the text is made: chat uses the tokenizer's template, plain uses "
        "`prompt` and `answer`; auto: chat if the tokenizer has a template",
    )
    system: str | None = Field(None, description="system message of the chat style; null: none")
    prompt: str = Field(
        "Question: {question}\nAnswer:",
        description="prompt of the plain style, with {question} in it",
    )
    answer: str = Field(
        " {answer}", description="what follows the prompt in the plain style, with {answer} in it"
    )
    question_column: str = Field(
        "question", description="column of the question, or of the instruction"
    )
    answer_column: str = Field("answer", description="column of the answer, or of the response")
    max_tokens: int = Field(
        512, ge=2, description="tokens of a text, at most; 512 as in the original experiment"
    )
    overlong: Literal["cut_answer", "drop"] = Field(
        "cut_answer",
        description="what happens to a longer text: its answer is truncated, or the row is dropped",
    )
    learn: Annotated[Literal["answer", "all"], AddedWith("answer")] = Field(
        "answer",
        description="which tokens are learnt: those of the answer; or all, except the first, "
        "which nothing predicts",
    )


@dataclass(frozen=True)
class _Text:
    """A prompt and what follows it, or the reason why there is none."""

    prompt: str = ""
    rest: str = ""
    reason: str | None = None


class Tokeniser:
    """Tokenises tables of rows; pure, so that Ray Data may call it on any batch.

    Args:
        tokenizer: a fast tokenizer of transformers.
        config: the text's format and length.

    Raises:
        UserError: the tokenizer lacks what the configuration needs (a chat template, an end of
            text).
    """

    def __init__(self, tokenizer: Any, config: TextConfig | None = None) -> None:
        self.tokenizer = tokenizer
        self.config = config or TextConfig()
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if self.config.style == "chat" and not has_template:
            raise UserError(
                "style 'chat': the tokenizer has no chat template. "
                "Take style 'plain', or a model that was tuned for chat."
            )
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the tokenizer has no end-of-text token, so a model could not learn to stop: "
                "set eos_token in its tokenizer_config.json."
            )
        self.chat = has_template and self.config.style != "plain"
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {number for number, token in added.items() if token.special}
        self._special.update(tokenizer.all_special_ids)
        self._control = ControlTokens(tokenizer)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Tokenise rows.

        Args:
            rows: with the question's and the answer's columns, and ``row_id``.

        Returns:
            One row for each that came in, in order, with the columns of `SCHEMA`. Dropped rows
            have a reason and no tokens.

        Raises:
            UserError: a column is missing.
        """
        config = self.config
        self._check_columns(rows)
        questions = rows[config.question_column].cast(pa.string()).to_pylist()
        answers = rows[config.answer_column].cast(pa.string()).to_pylist()
        texts = [self._text(q, a) for q, a in zip(questions, answers, strict=True)]
        usable = [text for text in texts if text.reason is None]
        tokens = iter(self._encode(usable))
        made = [next(tokens) if text.reason is None else (text.reason,) for text in texts]
        return _table(rows["row_id"], made)

    def prompt(self, question: str) -> str:
        """The text of a question's prompt, for `prompt_ids`; the question is quoted in it."""
        question = self._control.quote(question)
        if not self.chat:
            return self.config.prompt.format(question=question)
        return self.tokenizer.apply_chat_template(
            self._messages(question), tokenize=False, add_generation_prompt=True
        )

    def prompt_ids(self, prompts: list[str]) -> list[list[int]]:
        """Tokens of prompts, in training and in generation alike."""
        eos = self.tokenizer.eos_token_id
        ids = self._control.encode(prompts, add_special_tokens=not self.chat)
        # Some tokenizers end every text with the end-of-text token: remove it from prompts.
        return [each[:-1] if not self.chat and each and each[-1] == eos else each for each in ids]

    def following(self, answer: str) -> str:
        """The text of an answer after its prompt, for `pairs`, without its end; it is quoted."""
        quoted = self._control.quote(answer)
        return quoted if self.chat else self.config.answer.format(answer=quoted)

    def pairs(self, prompts: list[str], rests: list[str]) -> list[tuple[list[int], list[int]]]:
        """Tokens of prompts (`prompt`), and of the texts that follow them (`following`)."""
        firsts = self.prompt_ids(prompts)
        wholes = self.prompt_ids([p + rest for p, rest in zip(prompts, rests, strict=True)])
        made = []
        for text, first, whole in zip(rests, firsts, wholes, strict=True):
            rest = whole[len(first) :]
            if whole[: len(first)] != first:  # a token spans the border
                rest = self._control.encode([text], add_special_tokens=False)[0]
            made.append((first, rest))
        return made

    def ends(self) -> frozenset[int]:
        """Tokens after which an answer is complete: the end of text, and the end in training.

        A chat template has its own end-of-turn token, which many tokenizers do not name as their
        end of text: a model that was trained to write the one does not stop at the other.
        """
        text = self._text("a", "a")
        (whole,) = self.prompt_ids([text.prompt + text.rest])
        return frozenset({int(self.tokenizer.eos_token_id), self._ended(whole)[-1]})

    def with_control_text(self, rows: pa.Table) -> int:
        """The number of rows whose question or answer spells a control token."""
        columns = (self.config.question_column, self.config.answer_column)
        return rows_with_control_text(rows, columns, self._control.pattern)

    def _check_columns(self, rows: pa.Table) -> None:
        for name in (self.config.question_column, self.config.answer_column, "row_id"):
            if name not in rows.column_names:
                close = difflib.get_close_matches(name, rows.column_names, n=1)
                nearest = f"; nearest: '{close[0]}'" if close else ""
                raise UserError(
                    f"the rows to train on have no column '{name}'{nearest}. "
                    f"They have: {', '.join(rows.column_names)}."
                )

    def _messages(self, question: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.config.system}] if self.config.system else []
        return [*system, {"role": "user", "content": question}]

    def _text(self, question: str | None, answer: str | None) -> _Text:
        if not question or not question.strip():
            return _Text(reason=NO_QUESTION)
        if not answer or not answer.strip():
            return _Text(reason=NO_ANSWER)
        prompt = self.prompt(question)
        question, answer = self._control.quote(question), self._control.quote(answer.strip())
        if not self.chat:
            return _Text(prompt, self.config.answer.format(answer=answer))
        turns = [*self._messages(question), {"role": "assistant", "content": answer}]
        whole = self.tokenizer.apply_chat_template(turns, tokenize=False)
        if not whole.startswith(prompt):  # the template changes earlier turns
            return _Text(reason=TEMPLATE)
        return _Text(prompt, whole[len(prompt) :])

    def _encode(self, texts: list[_Text]) -> list[tuple[Any, ...]]:
        if not texts:
            return []
        pairs = self.pairs([text.prompt for text in texts], [text.rest for text in texts])
        return [self._fitted(prompt, self._ended(rest)) for prompt, rest in pairs]

    def _ended(self, answer: list[int]) -> list[int]:
        """The answer with its end token, and without the text that a template puts after it."""
        last = next((i for i in reversed(range(len(answer))) if answer[i] in self._special), None)
        if self.chat and last is not None:
            after = self.tokenizer.decode(answer[last + 1 :])
            if not after.strip():
                return answer[: last + 1]
        return [*answer, self.tokenizer.eos_token_id]

    def _fitted(self, prompt: list[int], answer: list[int]) -> tuple[Any, ...]:
        """(ids, mask, tokens cut), or (reason,)."""
        room = self.config.max_tokens - len(prompt)
        if room < 1:
            return (f"{PROMPT_TOO_LONG}: {len(prompt)} tokens",)
        if len(answer) > room and self.config.overlong == "drop":
            return (f"{TOO_LONG}: {len(prompt) + len(answer)} tokens",)
        cut = max(0, len(answer) - room)
        ids = prompt + answer[:room]
        if self.config.learn == "all":
            return ids, [False] + [True] * (len(ids) - 1), cut
        return ids, [False] * len(prompt) + [True] * (len(ids) - len(prompt)), cut


def _table(row_ids: Any, made: list[tuple[Any, ...]]) -> pa.Table:
    dropped = [len(entry) == 1 for entry in made]
    columns = [
        [None if out else entry[0] for entry, out in zip(made, dropped, strict=True)],
        [None if out else entry[1] for entry, out in zip(made, dropped, strict=True)],
        [0 if out else entry[2] for entry, out in zip(made, dropped, strict=True)],
        [DROPPED if out else KEPT for out in dropped],
        [entry[0] if out else None for entry, out in zip(made, dropped, strict=True)],
    ]
    arrays = [pa.array(v, f.type) for v, f in zip(columns, list(SCHEMA)[1:], strict=True)]
    ids = row_ids.combine_chunks() if isinstance(row_ids, pa.ChunkedArray) else row_ids
    return pa.Table.from_arrays([ids.cast(pa.string()), *arrays], schema=SCHEMA)


#: In a model's folder: how a question became a prompt in its training.
TEXT_FILE = "ray_pipeline_text.json"


def text_config(folder: str | Path) -> TextConfig | None:
    """The prompt format that a model was trained with; None if its folder does not record it."""
    path = Path(folder, TEXT_FILE)
    return TextConfig.model_validate_json(path.read_text()) if path.is_file() else None
