"""Data that spells a control token is text: ``<|im_end|>`` in a row is ten letters and signs.

A tokenizer finds its control tokens anywhere in a string, so a row that quotes one would end the
answer in the middle, or open a turn of its own. Only the format around the data (a chat template,
the configured prompt) may use control tokens.

Spelled control tokens of the data are *quoted*: replaced by placeholders that no tokenizer knows
and that a template leaves alone. The text with its format is then encoded by a copy of the
tokenizer in which every control token has another, secret spelling: the format is written in that
spelling, and the data in its own. The copy cuts, normalises and merges as the tokenizer does, so
the ids are those that the tokenizer would give if the control tokens of the data were ordinary
text. Data without such text never comes here: its ids are the tokenizer's own.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import pyarrow as pa

#: In an account's counts: rows with a text that spells a control token.
ROWS_WITH_CONTROL_TEXT = "rows_with_control_text"

#: Control tokens of common formats, for data that goes to a server whose tokenizer is unknown.
_COMMON = "|".join(
    (
        r"<\|[A-Za-z0-9_/ .-]{1,40}\|>",  # ChatML, Llama 3, Phi, GPT
        "<｜[^<>｜]{1,40}｜>",  # DeepSeek
        r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",  # Mistral
        r"</?s>|<</?SYS>>|<(?:bos|eos|pad|unk|mask)>",  # Llama 2, T5
        "<(?:start|end)_of_turn>",  # Gemma
        r"\[(?:CLS|SEP|MASK|PAD|UNK)\]",  # BERT
    )
)


_IN_COMMON = re.compile(_COMMON)


def rows_with_control_text(
    rows: pa.Table, columns: Sequence[str], pattern: re.Pattern[str] = _IN_COMMON
) -> int:
    """The number of rows in which one of the columns spells a control token.

    Args:
        rows: any rows; columns that they lack, or that hold no text, are ignored.
        columns: names of columns with text.
        pattern: what a control token is (`ControlTokens.pattern`); those of common formats.
    """
    texts = [
        rows[name].to_pylist()
        for name in columns
        if name in rows.column_names and _is_text(rows.schema.field(name).type)
    ]
    return sum(
        any(text is not None and pattern.search(text) for text in row)
        for row in zip(*texts, strict=True)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class ControlTokens:
    """The control tokens of a tokenizer, kept apart from data that spells them.

    These are its special tokens. Added tokens that are not special, such as ``<think>`` in some
    vocabularies, are written and read as text by their models, so they stay what they are.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)  # nobody can write a placeholder into the data
        added = getattr(tokenizer, "added_tokens_decoder", {}) or {}
        special = [token for token in added.values() if token.special]
        names = {token.content for token in special}
        names.update(str(token) for token in getattr(tokenizer, "all_special_tokens", ()))
        # The longest first: of two tokens that begin alike, the tokenizer finds the longer.
        ordered = sorted(filter(None, names), key=lambda name: (-len(name), name))
        self._private = {n: f"\ufdd0{self._nonce}.{i}\ufdd1" for i, n in enumerate(ordered)}
        #: What a spelled control token is, those of common formats included.
        self.pattern = re.compile("|".join([*map(re.escape, ordered), _COMMON]))
        own = "|".join(map(re.escape, ordered)) or r"\b\B"  # matches nothing
        self._own = re.compile(own)
        # A token that is compared after normalisation may be found in another case, too.
        is_folded = any(token.normalized for token in special)
        self._spelled = re.compile(own, re.IGNORECASE if is_folded else 0)
        self._quoted: dict[str, str] = {}
        self._texts: list[str] = []
        self._placeholder = re.compile(f"\ufdd2{self._nonce}\\.(\\d+)\ufdd3")

    def quote(self, data: str) -> str:
        """The data with placeholders for the control tokens that it spells; mostly unchanged."""
        return self._spelled.sub(lambda match: self._placeholder_of(match[0]), data)

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        """The ids of texts.

        Args:
            texts: in which data was quoted (`quote`), and only data.
            add_special_tokens: whether to add what the tokenizer puts around every text.

        Raises:
            ValueError: a chat template has changed the placeholders.
        """
        if not texts:
            return []
        rare = [number for number, text in enumerate(texts) if self._nonce in text]
        if not rare:
            return self._plain(texts, add_special_tokens)
        usual = [text for text in texts if self._nonce not in text]
        made = iter(self._plain(usual, add_special_tokens) if usual else [])
        quoted = {number: self._encode_quoted(texts[number], add_special_tokens) for number in rare}
        return [quoted[i] if i in quoted else next(made) for i in range(len(texts))]

    def chat(self, messages: Sequence[Mapping[str, Any]], **switches: Any) -> list[int]:
        """The ids of a chat by the tokenizer's template, up to where the answer begins.

        Args:
            messages: the chat.
            switches: variables of the template, such as ``enable_thinking``.

        Raises:
            ValueError: the template has changed the placeholders.
        """
        quoted = [{**message, "content": self.quote(message["content"])} for message in messages]
        if not any(self._nonce in message["content"] for message in quoted):
            ids: list[int] = self._tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **switches,
            )
            return ids
        text = self._tokenizer.apply_chat_template(
            quoted, add_generation_prompt=True, tokenize=False, **switches
        )
        return self.encode([text], add_special_tokens=False)[0]

    def data(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text that is all data."""
        return self.encode([self.quote(text)], add_special_tokens)[0]

    def _placeholder_of(self, spelled: str) -> str:
        if spelled not in self._quoted:
            self._quoted[spelled] = f"\ufdd2{self._nonce}.{len(self._texts)}\ufdd3"
            self._texts.append(spelled)
        return self._quoted[spelled]

    def _unquote(self, text: str) -> str:
        return self._placeholder.sub(lambda match: self._texts[int(match[1])], text)

    def _plain(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=add_special_tokens)[
            "input_ids"
        ]
        return ids

    def _encode_quoted(self, text: str, add_special_tokens: bool) -> list[int]:
        if self._nonce in self._placeholder.sub("", text):
            raise ValueError(
                "the chat template changes a message that spells a control token, so it cannot be "
                "kept as text"
            )
        if self._copy is None:
            return self._in_pieces(text, add_special_tokens)
        private = self._own.sub(lambda match: self._private[match[0]], text)
        copy, ids_of_copy = self._copy
        encoded = copy.encode(self._unquote(private), add_special_tokens=add_special_tokens)
        return [ids_of_copy.get(number, number) for number in encoded.ids]

    @cached_property
    def _copy(self) -> tuple[Any, dict[int, int]] | None:
        """The tokenizer with secret spellings, and its ids that differ from the tokenizer's.

        None for a tokenizer that is written in Python.
        """
        from tokenizers import Tokenizer

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        made = json.loads(backend.to_str())
        ids = {}
        for token in made["added_tokens"]:
            token["content"] = self._private.get(token["content"], token["content"])
            ids[token["content"]] = token["id"]
        model = made["model"]
        # In the vocabulary too: some models take whole words, or pieces, out of it.
        if isinstance(model["vocab"], dict):
            model["vocab"] = {self._private.get(k, k): v for k, v in model["vocab"].items()}
        else:
            model["vocab"] = [[self._private.get(k, k), v] for k, v in model["vocab"]]
        if model.get("unk_token") in self._private:
            model["unk_token"] = self._private[model["unk_token"]]
        copy = Tokenizer.from_str(json.dumps(made))
        copy.no_truncation()
        copy.no_padding()
        of_copy = {text: cast(int, copy.token_to_id(text)) for text in ids}
        return copy, {of_copy[text]: number for text, number in ids.items()}

    def _in_pieces(self, text: str, add_special_tokens: bool) -> list[int]:
        """As `_encode_quoted`, piece by piece between the control tokens of the format."""
        tokenizer, ids, at = self._tokenizer, [], 0
        for match in [*self._own.finditer(text), None]:
            piece = self._unquote(text[at : match.start() if match else len(text)])
            if piece:
                ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)[
                    "input_ids"
                ]
            if match:
                ids.append(tokenizer.convert_tokens_to_ids(match[0]))
                at = match.end()
        if not add_special_tokens:
            return ids
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return [*whole[:first], *ids, *whole[first + len(bare) :]]
