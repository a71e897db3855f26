"""Everyone agrees about the plain characters: asked one by one, of those who decide."""

import itertools
import re
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from ray_pipeline.stages.scoring._heuristics.characters import (
    LETTER,
    NOT_PLAIN,
    NUMBER,
    SPACE,
    WORD,
    Texts,
    classes,
)
from ray_pipeline.stages.scoring._heuristics.pieces import piece_starts
from ray_pipeline.stages.scoring._heuristics.rules import (
    COMPLEX_QUESTIONS,
    DIRECTIVES,
    STEPS,
    TOPICS,
)

EVERY = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
PLAIN = [character for character in EVERY if not classes()[ord(character)] & NOT_PLAIN]


def test_most_characters_that_texts_have_are_plain():
    assert len(PLAIN) > 50_000
    for character in "aZ09 \t\n\r\xa0\u3000éßñЖशा東あ한’–—“”…€×÷½²→√°£\u2028🚀😀🤖🫠":
        assert not classes()[ord(character)] & NOT_PLAIN, character
    for character in "\x00\x1c\x85\u200b\ue000\u0130\u212a١\U000e0001":
        assert classes()[ord(character)] & NOT_PLAIN, character


def test_python_divides_plain_characters_as_we_do():
    table = classes()
    for character in PLAIN:
        found = table[ord(character)]
        space, word = bool(found & SPACE), bool(found & WORD)
        assert space == character.isspace() == (not character.split()), character
        assert space == bool(re.match(r"\s", character)), character
        assert word == bool(re.match(r"\w", character)), character
        digit = character.isascii() and character.isdigit()
        assert digit == bool(re.match(r"\d", character)), character


def test_the_tokenizer_divides_plain_characters_as_we_do():
    # Between two of the same kind a letter, a number and a symbol stay with them or are cut off.
    table = classes()
    kinds = {LETTER: "x", NUMBER: "1", 0: "#", SPACE: "\n"}
    for kind, same in kinds.items():
        ours = [c for c in PLAIN if table[ord(c)] & (LETTER | NUMBER | SPACE) == kind]
        other = "#" if kind else "x"
        for at in range(0, len(ours), 5_000):
            some = ours[at : at + 5_000]
            # One piece each, although every second character is in doubt.
            text = other.join(f"{same}{c}{same}" for c in some)
            pieces = cut(text)
            if kind == SPACE:
                # Two characters in front of a symbol, then the last one by itself.
                assert pieces.count("#") == len(some) - 1
                assert len(pieces) == 3 * len(some) - 2
            else:
                assert pieces == [p for c in some for p in (f"{same}{c}{same}", other)][:-1]


def cut(text):
    """The pieces into which GPT-2's tokenizer itself cuts a text."""
    made = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return [text[begin:end] for _, (begin, end) in made.pre_tokenize_str(text)]


def test_no_other_character_becomes_an_ascii_letter_in_lower_case():
    found = [c for c in EVERY if not c.isascii() and any(map(str.isascii, c.lower()))]
    assert found == ["\u0130", "\u212a"]
    for keyword in (*DIRECTIVES, *COMPLEX_QUESTIONS, *STEPS, *TOPICS):
        assert keyword.isascii() and keyword.isalpha() and keyword.islower() and len(keyword) >= 3


snippets = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'", "''", " ", "  ", "\n", "\t", "\xa0"]
snippets += ["\u3000", "a", "s", "é", "東", "1", "½", "#", "…", "🚀", " '", "'S", "'l", "\r\n", "e"]


@given(
    rows=st.lists(
        st.one_of(
            st.lists(st.sampled_from(snippets), min_size=1, max_size=30).map("".join),
            st.text(st.sampled_from(PLAIN), min_size=1, max_size=40),
        ),
        min_size=1,
        max_size=8,
    )
)
@hypothesis_settings(max_examples=500, deadline=None)
def test_pieces_are_those_of_the_tokenizer(rows):
    expected = [piece.encode() for row in rows for piece in cut(row)]
    texts = Texts.of(pa.array(rows))
    starts, _ = piece_starts(texts)
    edges = np.append(starts, texts.size)
    data = texts.bytes.tobytes()
    assert [data[a:b] for a, b in itertools.pairwise(edges)] == expected


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_texts_of_a_slice(kind):
    array = pa.array(["one", "two é", "", "three", "four 🚀"], kind).slice(1, 3)
    texts = Texts.of(array)
    assert texts.starts.tolist() == [0, 6, 6, 11]
    assert texts.bytes[: texts.size].tobytes().decode() == "two éthree"
    assert texts.where(texts.at("t")).tolist() == [True, False, True]
