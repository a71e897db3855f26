from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.stages.compression.deletion import Prompt
from ray_pipeline.stages.compression.protected import (
    constraints_of,
    literals_of,
    names_of,
    negations_of,
    numbers_of,
)


def free(text: str) -> str:
    """The words that may be deleted."""
    prompt = Prompt(text)
    return " ".join(prompt.words[place].core for place in prompt.free)


@pytest.mark.parametrize(
    ("text", "deletable"),
    [
        ("Fix `the bug` in the code", "Fix in the code"),
        ("Run:\n```\nthe loop is here\n```\nthe end", "Run the end"),
        ("See https://a.b/the/page or the mail a.b@c.de", "See the mail"),
        ('Who said "to be or not to be"?', "Who said"),
        ("Who said “the end is near” there?", "Who said there"),
        ("It's the dogs' bowl", "It's the dogs bowl"),
        ("Add three apples to the 12 pears", "Add apples to the pears"),
        ("Why do cats never bark, and don't swim?", "Why do cats bark swim"),
        ('Parse {"the key": [1, true], "b": null} now', "Parse now"),
        ("Hello {{ the name }} and {name}, the rest", "Hello the rest"),
        ("| the | cell |\nthe text", "the text"),
        ("Use <b class='x'>the</b> tag", "Use tag"),
        ("Where is The Hague in the Kingdom of the Netherlands?", "Where is in the"),
        ("The president met Barack Obama", "The president met"),
        ("Barack Obama met the press", "met the press"),
        ("NASA built the iPhone", "built the"),
        ("Explain the sun in three short sentences", "Explain the sun"),
        ("Sort a list in alphabetical order", "Sort a list in"),
    ],
)
def test_what_must_stay_is_found(text: str, deletable: str) -> None:
    assert free(text) == deletable


def test_facts_of_a_text() -> None:
    assert numbers_of("1,000 apples, three pears and 05 of 2.50") == {"1000", "3", "5", "2.50"}
    assert numbers_of("which one") == set()
    assert negations_of("Don't use nouns without articles, not ever") == 3
    assert names_of("In Paris, the Bank of England met. It rained.") == {"paris", "bank", "england"}
    assert names_of("What is I? The dog") == set()
    assert constraints_of("Write it in three sentences, as a poem") == [
        "in three sentences",
        "as a poem",
    ]
    assert literals_of('Say "hi" in `code`') == ["`code`", '"hi"']


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text('the a.,{}[]"\\ \n', max_size=12),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("the a:", max_size=6), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.sampled_from([None, 1]),
)
def test_json_stays_valid_whatever_words_go(value: object, indent: int | None) -> None:
    text = json.dumps([value], indent=indent)
    prompt = Prompt("Read the following, please: " + text)
    short = prompt.deleted(prompt.free)
    assert json.loads(short[short.index("[") :]) == [value]
