import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.stage_tables import reasons, table

from ray_pipeline.stages.cleaning.clean_text import CleanText, TextCleaner

STAGE = CleanText("question", "answer").bound()
CLEANERS = [
    TextCleaner(),
    TextCleaner(keep_non_ascii=True),
    TextCleaner(keep_newlines=True),
    TextCleaner(form="NFC", keep_non_ascii=True, keep_newlines=True),
    TextCleaner(form="NFKD", keep_non_ascii=True),
    TextCleaner(allowed_symbols=".?"),
]

fragments = st.sampled_from(
    ["&amp;", "&lt;", "&#39;", "&", ";", "amp;", "lt", "#", "^", "Ã©", "â€™", "é", "\u0301"]
    + ["  ", "\n", "\n\n\n", "\t", "\xa0", "\u200b", "“", "—", "½", "²", "10", "°C", "ß", "ﷺ"]
    + ["`", "\x1b[0m", "\x85", "\u2028", "™", "Ж", "|", "~", "word", "a", "?", "___", "\ufffd"]
)
texts = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(max_codepoint=0x17F), max_size=60),
    st.lists(fragments, max_size=12).map("".join),
    st.text("abc &;#.?\n_-'", max_size=30),
)


@pytest.mark.parametrize("cleaner", CLEANERS)
@given(text=texts)
@settings(max_examples=300, deadline=None)
@example(text="&^a^mp;lt^;")
@example(text="a&amp;amp;lt;b")
def test_cleaning_what_is_clean_changes_nothing(cleaner, text):
    once = cleaner.clean(text).text
    again = cleaner.clean(once)
    assert again.text == once
    assert not again.lost_characters


@pytest.mark.parametrize("cleaner", CLEANERS)
@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_the_shortcut_skips_only_texts_that_cleaning_would_not_change(cleaner, text):
    column = pa.array([text])
    skipped = (
        pc.match_substring_regex(column, cleaner.clean_pattern)[0].as_py()
        and not pc.match_substring_regex(column, cleaner.entity_pattern)[0].as_py()
    )
    if skipped:
        cleaned = cleaner.clean(text)
        assert cleaned.text == text
        assert not cleaned.kinds


@given(pairs=st.lists(st.tuples(st.none() | texts, texts), max_size=8))
@settings(max_examples=100, deadline=None)
def test_the_stage_equals_the_cleaner_on_every_text(pairs):
    cleaner = TextCleaner()
    counts: Counter[str] = Counter()
    result = STAGE.apply(table(pairs), counts)
    expected = [
        (q if q is None else cleaner.clean(q).text, cleaner.clean(a).text) for q, a in pairs
    ]
    questions, answers = result["question"].to_pylist(), result["answer"].to_pylist()
    assert list(zip(questions, answers, strict=True)) == expected
    assert result["row_id"].to_pylist() == [f"row{i}" for i in range(len(pairs))]
    changed = sum(before != after for before, after in zip(pairs, expected, strict=True))
    assert counts["rows_changed"] == changed


@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_the_default_leaves_only_ascii_and_the_allowed_symbols(text):
    cleaned = TextCleaner().clean(text).text
    assert re.fullmatch(r"[0-9A-Za-z_ .,;:!?\"'()\-%$€£¢+*/=<>^°&#@\[\]]*", cleaned)
    assert cleaned == " ".join(cleaned.split())


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("cafÃ© au lait", "cafe au lait"),
        ("Hewlett &amp; Packard", "Hewlett & Packard"),
        ("&amp;quot;x&amp;quot;", '"x"'),
        ("“I think”, he said – once…", '"I think", he said - once...'),
        ("word—word", "word - word"),
        ("E = mc²", "E = mc^2"),
        ("10⁻⁶ m", "10^-6 m"),
        ("2½ cups", "2 1/2 cups"),
        ("100 °C, 5%, $4, €3, AT&T, C#, 1/2", "100 °C, 5%, $4, €3, AT&T, C#, 1/2"),
        ("Straße, Æsop, Łódź, Søren", "Strasse, AEsop, Lodz, Soren"),
        ("Ｆｕｌｌ　ｗｉｄｔｈ", "Full width"),
        ("Xbox™ ★ Live®", "Xbox Live"),
        ("  a \t b\n\nc ", "a b c"),
        ("it`s", "it's"),
        ("H₂O", "H2O"),
        ("3 × 4 ÷ 2 − 1", "3 x 4 / 2 - 1"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("The capital is ____.", "The capital is ____."),
    ],
)
def test_examples(dirty, clean):
    assert TextCleaner().clean(dirty).text == clean


def test_letters_of_other_scripts_and_line_ends_can_be_kept():
    cleaner = TextCleaner(keep_non_ascii=True, keep_newlines=True)
    assert cleaner.clean("Что такое ДНК?\r\n\n\n\nहिन्दी  ok").text == "Что такое ДНК?\n\nहिन्दी ok"


def test_counts_say_what_was_done():
    counts: Counter[str] = Counter()
    rows = table([("cafÃ©  &amp; tea", "fine"), ("fine", "“q” ~ 東x and so on")])
    STAGE.apply(rows, counts)
    assert counts == {
        "mojibake": 1,
        "html_entities": 1,
        "unicode": 1,
        "non_ascii": 2,
        "symbols": 1,
        "white_space": 2,
        "characters_lost": 1,
        "rows_changed": 2,
    }


def test_rows_of_which_nothing_is_left_are_dropped_with_a_reason():
    rows = table(
        [("Кто?", "a"), ("\u200b", "a"), ("Что такое DNA?", "a"), ("What is π exactly?", "a")]
        + [("What sign is it?", "+")]
    )
    assert reasons(STAGE.apply(rows, Counter())) == [
        "clean:empty_after_cleaning: question",
        "clean:empty_after_cleaning: question",
        "clean:letters_lost: 73% of the letters of question have no ASCII form",
        None,
        None,
    ]


def test_the_export_holds_the_rows_that_go_on():
    result = STAGE.apply(table([("a  b", "c"), ("Кто?", "d")], extra=["x", "y"]), Counter())
    exported = STAGE.exported(result)
    assert exported.to_pylist() == [
        {"row_id": "row0", "question": "a b", "answer": "c", "extra": "x"}
    ]


def test_configuration_names_the_columns():
    stage = CleanText("question", "answer").bound({"columns": ("question",)})
    result = stage.apply(table([("a  b", "c  d")]), Counter())
    assert result["answer"].to_pylist() == ["c  d"]
