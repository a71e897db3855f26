"""Text cleaning: mojibake, HTML entities, Unicode forms, symbols, white space.

`TextCleaner` cleans one text and says what it did; `CleanText` applies it to the columns of a
table. Most texts of a real set are clean already: one regular expression, run by Arrow over a
whole column, finds them, and only the others reach Python. That this changes nothing but the speed
is proven in `tests/stages/cleaning/test_clean_text.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import data_columns, drop, kept, set_column
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.text.unicode import Form, normalise

#: Symbols that carry meaning in questions and answers stay: money and shares ($ € £ ¢ %),
#: arithmetic and comparison (+ - * / = < > ^ °), names (AT&T, C#, user@host), choices and
#: editorial marks ([ ]). Backslash, bar, tilde, braces and all decoration go.
DEFAULT_SYMBOLS = ".,;:!?\"'()-%$€£¢+*/=<>^°&#@[]"

_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′´ʼ", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‹›", "'"),
        **dict.fromkeys("‐‑‒–−", "-"),
        **dict.fromkeys("—―", " - "),  # a dash between clauses, not inside a word or a range
        "…": "...",
        **dict.fromkeys("™®©", ""),  # NFKC would make "Xbox™" into "XboxTM"
        **dict.fromkeys("\u200b\u00ad\ufeff\ufffd", ""),  # invisible, or lost when decoded
    }
)
#: Letters and signs whose decomposition does not lead to ASCII.
_TO_ASCII = str.maketrans(
    {
        **{"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O"},
        **{"đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ł": "l", "Ł": "L"},
        **{"ħ": "h", "Ħ": "H", "ı": "i", "ŋ": "ng", "Ŋ": "Ng", "ŧ": "t", "Ŧ": "T"},
        **{"×": "x", "÷": "/", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "·": "-"},
        **dict.fromkeys("ʻʾʿ", "'"),
    }
)
# NFKC would make "10⁶" into "106" and "2½" into "21/2".
_EXPONENT = re.compile(r"(?<=[\w)])([⁻]?[⁰¹²³⁴-⁹]+)")
_EXPONENT_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_FRACTION_AFTER_DIGIT = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")

_ENTITY = "&#?[0-9A-Za-z]{1,24};"
#: An ampersand escaped several times: ``&amp;amp;``. ftfy undoes one level after the other, each
#: in a pass over the text.
_NESTED_AMPERSAND = re.compile(r"&(?:(?:amp|AMP|#0{0,8}38|#[xX]0{0,8}26);){2,}")
#: Without one of these, ftfy leaves a text as it is.
_MAY_NEED_REPAIR = re.compile(rf"[^\x20-\x7e\n]|{_ENTITY}")
_FTFY = ftfy.TextFixerConfig(unescape_html=True, normalization=None)
_MOJIBAKE_STEPS = {"encode", "decode", "transcode"}

#: Each round after the first undoes what the one before uncovered (``&amp;lt;``), which ends
#: after two or three; the bound only keeps adversarial text from taking long.
_MAX_ROUNDS = 8


@dataclass
class Cleaned:
    """A cleaned text, what was done to it, and what it lost."""

    text: str
    #: ``mojibake``, ``html_entities``, ``unicode``, ``non_ascii``, ``symbols``, ``white_space``.
    kinds: set[str] = field(default_factory=set)
    #: Characters, and letters among them, that have no ASCII form and were removed.
    lost_characters: int = 0
    lost_letters: int = 0

    @property
    def lost_letter_share(self) -> float:
        """Share of the text's letters that were lost."""
        left = sum(map(str.isalpha, self.text))
        return self.lost_letters / (left + self.lost_letters) if self.lost_letters else 0.0


class TextCleaner:
    """Cleans one text at a time. Cleaning a text that is already clean changes nothing."""

    def __init__(
        self,
        form: Form = "NFKC",
        allowed_symbols: str = DEFAULT_SYMBOLS,
        keep_non_ascii: bool = False,
        keep_newlines: bool = False,
    ) -> None:
        self.form: Form = form
        self.keep_non_ascii = keep_non_ascii
        self.keep_newlines = keep_newlines
        self._allowed = frozenset(allowed_symbols)
        self._spell_out_exponents = form in ("NFKC", "NFKD") or not keep_non_ascii
        ascii_symbols = "".join(re.escape(c) for c in sorted(self._allowed) if "!" <= c <= "~")
        self._forbidden_ascii = re.compile(rf"[^0-9A-Za-z_\s{ascii_symbols}\x80-\U0010ffff]+")
        one = f"[0-9A-Za-z_{ascii_symbols}]+"
        between = "(?: |\n\n?)" if keep_newlines else " "
        #: Texts that match this, and not `entity_pattern`, are clean (RE2 and Python syntax).
        self.clean_pattern = f"^{one}(?:{between}{one})*$"
        self.entity_pattern = _ENTITY

    def clean(self, text: str) -> Cleaned:
        """Clean one text, which may hold any characters."""
        cleaned = Cleaned(text)
        for _ in range(_MAX_ROUNDS):
            before = cleaned.text
            self._repair(cleaned)
            self._normalise(cleaned)
            if not self.keep_non_ascii:
                self._to_ascii(cleaned)
            _change(cleaned, "symbols", self._forbidden_ascii.sub(" ", cleaned.text))
            _change(cleaned, "white_space", self._tidy_white_space(cleaned.text))
            if cleaned.text == before:
                break
        return cleaned

    def _repair(self, cleaned: Cleaned) -> None:
        if not _MAY_NEED_REPAIR.search(cleaned.text):
            return
        lines = []
        text = _NESTED_AMPERSAND.sub("&amp;", cleaned.text)
        # Line by line: one text may mix encodings, a line hardly.
        for line in text.split("\n"):
            fixed = ftfy.fix_and_explain(line, _FTFY)
            lines.append(fixed.text)
            for step in fixed.explanation or ():
                cleaned.kinds.add(_kind_of_repair(step.action, step.parameter))
        cleaned.text = "\n".join(lines)

    def _normalise(self, cleaned: Cleaned) -> None:
        text = cleaned.text
        if text.isascii():
            if "`" in text and "`" not in self._allowed:
                _change(cleaned, "unicode", text.replace("`", "'"))
            return
        text = text.translate(_PUNCTUATION)
        if self._spell_out_exponents:
            text = _EXPONENT.sub(lambda m: "^" + m[0].translate(_EXPONENT_DIGITS), text)
            text = _FRACTION_AFTER_DIGIT.sub(" ", text)
        text = normalise(self.form, text).replace("\u2044", "/")
        _change(cleaned, "unicode", text)

    def _to_ascii(self, cleaned: Cleaned) -> None:
        if cleaned.text.isascii():
            return
        kept_characters = []
        for character in normalise("NFKD", cleaned.text.translate(_TO_ASCII)):
            if character.isascii() or character in self._allowed:
                kept_characters.append(character)
                continue
            category = unicodedata.category(character)
            if category[0] == "M":  # an accent is removed, its letter stays
                continue
            if category[0] == "Z":
                kept_characters.append(" ")
            elif character == "\u2044":
                kept_characters.append("/")
            else:
                cleaned.lost_characters += 1
                cleaned.lost_letters += category[0] == "L"
                # A symbol separates words, a letter is part of one.
                kept_characters.append("" if category[0] == "L" else " ")
        _change(cleaned, "non_ascii", "".join(kept_characters))

    def _tidy_white_space(self, text: str) -> str:
        if not self.keep_newlines:
            return " ".join(text.split())
        lines = (" ".join(line.split()) for line in text.splitlines())
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _change(cleaned: Cleaned, kind: str, text: str) -> None:
    if text != cleaned.text:
        cleaned.kinds.add(kind)
        cleaned.text = text


def _kind_of_repair(action: str, parameter: str) -> str:
    if parameter == "unescape_html":
        return "html_entities"
    return "mojibake" if action in _MOJIBAKE_STEPS else "unicode"


class CleanText(MapStage):
    """Cleans the text columns, and drops rows if too little of their text is left.

    Reasons: ``clean:empty_after_cleaning``, ``clean:letters_lost``. Counts texts by the kind of
    repair (`Cleaned.kinds`), and ``characters_lost`` and ``rows_changed``.

    Args:
        columns: the texts of a row.
        defaults: of the configuration.
    """

    name = "clean-text"
    export = "cleaned_qa.csv"

    class Config(StageConfig):
        columns: tuple[str, ...] = Field((), description="text columns to clean")
        form: Form = Field("NFKC", description="Unicode normalisation form of the cleaned text")
        allowed_symbols: str = Field(
            DEFAULT_SYMBOLS,
            description="symbols to keep besides letters, digits, underscore and white space; a "
            "non-ASCII symbol listed here is kept even if `keep_non_ascii` is false",
        )
        keep_non_ascii: bool = Field(
            False,
            description="keep non-ASCII characters; false: replace them by ASCII equivalents (é "
            "by e) where there is one, and remove the others",
        )
        keep_newlines: bool = Field(
            False,
            description="keep line breaks, with at most one blank line in a row; false: join the "
            "text into one line",
        )
        max_lost_letters: float = Field(
            0.25,
            ge=0,
            le=1,
            description="maximum share of a text's letters that cleaning may remove because they "
            "have no ASCII equivalent; a row that would lose more is dropped",
        )

    config: Config

    def __init__(self, *columns: str, **defaults: Any) -> None:
        super().__init__(columns=columns, **defaults)
        self.columns = columns

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns that the job names; the configuration may leave some of them out."""
        return dict.fromkeys(self.columns, pa.string())

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """The same."""
        return self.reads

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Clean every configured column."""
        config = self.config
        cleaner = TextCleaner(
            config.form, config.allowed_symbols, config.keep_non_ascii, config.keep_newlines
        )
        changed_rows: set[int] = set()
        for column in config.columns:
            texts: Any = rows[column].combine_chunks()
            positions = _unclean(texts, cleaner)
            if not positions:
                continue
            before: list[str] = texts.take(pa.array(positions)).to_pylist()
            cleaned = [cleaner.clean(text) for text in before]
            for position, old, new in zip(positions, before, cleaned, strict=True):
                if new.text != old:
                    changed_rows.add(position)
                counts.update(new.kinds)
                counts["characters_lost"] += new.lost_characters
            new_texts = pa.array([c.text for c in cleaned], pa.string())
            mask = _mask(positions, len(texts))
            rows = set_column(rows, column, pc.replace_with_mask(texts, mask, new_texts))
            rows = self._drop_ruined(rows, column, dict(zip(positions, cleaned, strict=True)))
        counts["rows_changed"] += len(changed_rows)
        return rows

    def _drop_ruined(self, rows: pa.Table, column: str, cleaned: dict[int, Cleaned]) -> pa.Table:
        empty = [i for i, c in cleaned.items() if _is_empty(c)]
        reason = f"clean:empty_after_cleaning: {column}"
        rows = drop(rows, _mask(empty, rows.num_rows), reason)
        shares = {i: c.lost_letter_share for i, c in cleaned.items() if c.lost_letters}
        lost = {i: share for i, share in shares.items() if share > self.config.max_lost_letters}
        reasons = [
            f"clean:letters_lost: {lost[i]:.0%} of the letters of {column} have no ASCII form"
            if i in lost
            else None
            for i in range(rows.num_rows if lost else 0)
        ]
        if not lost:
            return rows
        return drop(rows, _mask(list(lost), rows.num_rows), pa.array(reasons, pa.string()))

    def exported(self, rows: pa.Table) -> pa.Table:
        """The kept rows, without the envelope except for ``row_id``."""
        return kept(rows).select(["row_id", *data_columns(rows)])


def _unclean(texts: pa.Array, cleaner: TextCleaner) -> list[int]:
    """Positions of the texts that `TextCleaner.clean` may change; nulls are left alone."""
    clean: Any = pc.match_substring_regex(texts, cleaner.clean_pattern)
    entity: Any = pc.match_substring_regex(texts, cleaner.entity_pattern)
    unclean: Any = pc.fill_null(pc.or_(pc.invert(clean), entity), False)
    positions: list[int] = pc.indices_nonzero(unclean).to_pylist()
    return positions


def _mask(positions: list[int], length: int) -> pa.Array:
    mask = [False] * length
    for position in positions:
        mask[position] = True
    return pa.array(mask, pa.bool_())


def _is_empty(cleaned: Cleaned) -> bool:
    """Nothing left; or only punctuation, where letters were lost (``Кто?`` leaves ``?``)."""
    if not cleaned.text:
        return True
    return cleaned.lost_letters > 0 and not any(map(str.isalnum, cleaned.text))
