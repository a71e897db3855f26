"""Typing errors: a version of every question as people type it in a hurry."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from ray_pipeline.core.rows import created_row_id, set_column
from ray_pipeline.rundir.layout import ORIGINAL
from ray_pipeline.stage import MapStage, StageConfig

Kind = Literal["transposition", "omission", "doubling", "neighbour", "apostrophe", "space"]

_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_TOKEN = re.compile(r"\S+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NOT_PROSE = re.compile(r"[@_\\/<>{}=]|\w\.\w")  # addresses, code, formulas, U.S.A.


def _neighbours() -> dict[str, str]:
    """Letters beside, above and below each letter of a QWERTY keyboard."""
    found: dict[str, set[str]] = {letter: set() for row in _KEYBOARD for letter in row}
    for row, letters in enumerate(_KEYBOARD):
        for column, letter in enumerate(letters):
            # A lower row stands half a key to the right: S lies below W and E.
            beside = [(row, column + 1), (row + 1, column - 1), (row + 1, column)]
            for other_row, other in beside:
                if other_row < len(_KEYBOARD) and 0 <= other < len(_KEYBOARD[other_row]):
                    found[letter].add(_KEYBOARD[other_row][other])
                    found[_KEYBOARD[other_row][other]].add(letter)
    return {letter: "".join(sorted(others)) for letter, others in found.items()}


NEIGHBOURS = _neighbours()


class Typos(MapStage):
    """Creates a version with typing errors of every original row, as a new row.

    The words and the errors depend only on the run's seed and the row's id. Numbers, words with
    digits, short words, abbreviations, addresses and code stay unchanged. A text in which no word
    can take an error gets an identical version, which ``accept-paraphrases`` drops as a copy.
    Counts: the errors by kind.
    """

    name = "augment-typos"
    reads = {"question": pa.string(), "answer": pa.string()}
    writes = {
        "question": pa.string(),
        "answer": pa.string(),
        "version": pa.string(),
        "source_question": pa.string(),
        "source_answer": pa.string(),
    }
    uses_seed = True

    class Config(StageConfig):
        columns: tuple[Literal["question", "answer"], ...] = Field(
            ("question",), min_length=1, description="columns that get typing errors"
        )
        words_per_typo: int = Field(
            4,
            ge=1,
            description="average number of words per typing error; every text gets at least one "
            "error",
        )
        min_letters: int = Field(
            3, ge=2, description="minimum number of letters of a word that may get an error"
        )
        weights: dict[Kind, float] = Field(
            {
                "omission": 0.30,
                "neighbour": 0.25,
                "transposition": 0.20,
                "doubling": 0.15,
                "apostrophe": 0.05,
                "space": 0.05,
            },
            description="relative frequency of each kind of error, among the kinds that are "
            "possible in a word",
        )

        @field_validator("weights")
        @classmethod
        def _some_weight(cls, weights: dict[Kind, float]) -> dict[Kind, float]:
            if any(weight < 0 for weight in weights.values()) or not any(
                weights.get(kind, 0) > 0 for kind in ("omission", "doubling")
            ):
                raise ValueError("none may be negative, and omission or doubling must be above 0")
            return weights

    config: Config

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Append one row for each original."""
        if "version" not in rows.column_names:
            rows = set_column(rows, "version", pa.nulls(rows.num_rows, pa.string()))
        rows = set_column(rows, "version", pc.fill_null(rows["version"], ORIGINAL))
        for column in ("source_question", "source_answer"):
            if column not in rows.column_names:
                rows = set_column(rows, column, pa.nulls(rows.num_rows, pa.string()))
        made = rows.filter(pc.equal(rows["version"], ORIGINAL))
        if not made.num_rows:
            return rows
        ids: list[Any] = made["row_id"].to_pylist()
        changed: dict[str, pa.Array | pa.ChunkedArray] = {
            "version": pa.array(["typos"] * len(ids), pa.string()),
            "source_question": made["question"],
            "source_answer": made["answer"],
            "row_id": pa.array([created_row_id(i, self.name, 0) for i in ids], pa.string()),
            "parent_id": pa.array(ids, pa.string()),
        }
        for column in self.config.columns:
            changed[column] = self._with_typos(column, made[column].to_pylist(), ids, counts)
        if "note" in made.column_names:  # describes the original, not this version
            changed["note"] = pa.nulls(len(ids), pa.string())
        for name, values in changed.items():
            made = set_column(made, name, values)
        return pa.concat_tables([rows, made])

    def _with_typos(
        self, column: str, texts: Sequence[Any], ids: Sequence[str], counts: Counter[str]
    ) -> pa.Array:
        config = self.config
        found = []
        for text, row_id in zip(texts, ids, strict=True):
            rng = random.Random(f"{self.settings.seed}:{row_id}:{column}")
            new, kinds = add_typos(
                text, rng, config.words_per_typo, config.min_letters, config.weights
            )
            counts.update(kinds)
            found.append(new)
        return pa.array(found, pa.string())


def add_typos(
    text: str,
    rng: random.Random,
    words_per_typo: int,
    min_letters: int,
    weights: Mapping[Kind, float],
) -> tuple[str, list[Kind]]:
    """Add typing errors, at most one per word; returns the text and the kinds of errors."""
    tokens = list(_TOKEN.finditer(text))
    able = [i for i, token in enumerate(tokens) if _word_of(token[0], min_letters) is not None]
    number = min(len(able), max(1, len(tokens) // words_per_typo))
    chosen = set(rng.sample(able, number))
    pieces: list[str] = []
    kinds: list[Kind] = []
    end = 0
    for i, token in enumerate(tokens):
        gap = text[end : token.start()]
        # The space before this word, if the error of the word before it was to leave it out.
        pieces.append("" if i - 1 in chosen and kinds[-1] == "space" else gap)
        if i in chosen:
            joins = i + 1 not in chosen and _may_join(text, tokens, i)
            word, kind = _misspell(token[0], min_letters, joins, rng, weights)
            pieces.append(word)
            kinds.append(kind)
        else:
            pieces.append(token[0])
        end = token.end()
    pieces.append(text[end:])
    return "".join(pieces), kinds


def _word_of(token: str, min_letters: int) -> re.Match[str] | None:
    """The word in a token that may get an error; None if it must stay unchanged."""
    if any(c.isnumeric() for c in token) or _NOT_PROSE.search(token):
        return None
    words = sorted(_WORD.finditer(token), key=lambda word: len(word[0]), reverse=True)
    if not words or sum(map(str.isalpha, words[0][0])) < min_letters:
        return None
    if words[0][0].isupper() and len(words[0][0]) <= 5:  # NASA, XVI
        return None
    return words[0]


def _may_join(text: str, tokens: Sequence[re.Match[str]], index: int) -> bool:
    """Whether the space between two words can be forgotten: "ofthe", but not "in1945"."""
    if index + 1 == len(tokens):
        return False
    this, following = tokens[index], tokens[index + 1]
    return (
        text[this.end() : following.start()] == " "
        and this[0][-1].isalpha()
        and following[0][0].isalpha()
        and not any(c.isnumeric() for c in following[0])
    )


def _misspell(
    token: str, min_letters: int, joins: bool, rng: random.Random, weights: Mapping[Kind, float]
) -> tuple[str, Kind]:
    found = _word_of(token, min_letters)
    assert found is not None
    word = found[0]
    places = {kind: places for kind, make in _PLACES.items() if (places := make(word))}
    if joins:
        places["space"] = [len(word)]
    possible = [kind for kind in weights if places.get(kind) and weights[kind] > 0]
    kind = rng.choices(possible, [weights[kind] for kind in possible])[0]
    place = rng.choice(places[kind])
    return token[: found.start()] + _err(word, kind, place, rng) + token[found.end() :], kind


def _err(word: str, kind: Kind, place: int, rng: random.Random) -> str:
    before, letter, after = word[:place], word[place : place + 1], word[place + 1 :]
    if kind == "transposition":
        return before + after[0] + letter + after[1:]
    if kind in ("omission", "apostrophe"):
        return before + after
    if kind == "doubling":
        return before + letter + letter + after
    if kind == "neighbour":
        wrong = rng.choice(NEIGHBOURS[letter.lower()])
        return before + (wrong.upper() if letter.isupper() else wrong) + after
    return word  # the space after it is left out


def _letters(word: str, start: int = 1) -> list[int]:
    """Positions of letters, without the first one, which people rarely get wrong."""
    return [i for i in range(start, len(word)) if word[i].isalpha()]


#: Positions in a word at which each kind of error changes the word.
_PLACES: dict[Kind, Callable[[str], list[int]]] = {
    "transposition": lambda w: [
        i
        for i in _letters(w)[:-1]
        if w[i + 1 : i + 2].isalpha() and w[i].lower() != w[i + 1].lower()
    ],
    "omission": _letters,
    "doubling": _letters,
    "neighbour": lambda w: [i for i in _letters(w) if w[i].lower() in NEIGHBOURS],
    "apostrophe": lambda w: [i for i, c in enumerate(w) if c in "'’"],
}
