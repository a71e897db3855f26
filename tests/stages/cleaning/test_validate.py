from collections import Counter

import pyarrow as pa
import pytest
from support.stage_tables import reasons, table

from ray_pipeline.core.rows import set_column
from ray_pipeline.stages.cleaning.drop_invalid import DropInvalid
from ray_pipeline.stages.cleaning.validate import Validate

STAGE = Validate("question", "answer").bound()


def test_what_is_wrong_is_named_and_neighbours_go_on():
    rows = table(
        [
            ("What is it?", "A cat"),
            (None, "A cat"),
            ("What is it?", None),
            (" \t\u00a0\n", "A cat"),
            ("What is it?", ""),
            ("Q" * 21, "A cat"),
            ("Wh\ufffdt?", "\ufffd\ufffd\ufffd"),
            ("line one\nline two", "tab\there"),
            (None, None),
        ]
    )
    stage = Validate("question", "answer").bound(
        {"max_question_chars": 20, "max_undecodable_share": 0.2}
    )
    result = stage.apply(rows, Counter())
    assert reasons(result) == [
        None,
        "invalid:null: question",
        "invalid:null: answer",
        "invalid:empty: question",
        "invalid:empty: answer",
        "invalid:too_long: question has 21 characters, at most 20",
        "invalid:undecodable: answer has 3 control or replacement characters",
        None,
        "invalid:null: question",
    ]
    assert result["question"].equals(rows["question"])


@pytest.mark.parametrize("text", ["a\x00b", "\x1b[31mred", "\x7fx"])
def test_control_characters(text):
    result = STAGE.apply(table([(text, "fine")]), Counter())
    assert reasons(result)[0].startswith("invalid:undecodable: question")


def test_bytes_that_are_not_utf8_are_dropped_and_can_still_be_read():
    raw = pa.array([b"fine", b"\xff\xfe\xed\xa0\x80"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    rows = set_column(table([("", "a"), ("", "b")]), "question", broken)
    result = STAGE.apply(rows, Counter())
    assert reasons(result)[0] is None
    assert reasons(result)[1].startswith("invalid:undecodable")
    assert result["question"].to_pylist()[1].startswith("\ufffd")


def test_no_rows():
    assert STAGE.apply(table([]), Counter()).num_rows == 0


def test_review_marks_ignore_case_and_space():
    rows = table(
        [("q", "a")] * 6,
        Classification=["yes", "no", " No ", None, "none", "yes"],
        Correction_Question=["", "", "", "", "", "INVALID"],
    )
    assert reasons(DropInvalid().bound().apply(rows, Counter())) == [
        None,
        "review:Classification=no",
        "review:Classification=no",
        None,
        None,
        "review:Correction_Question=invalid",
    ]


def test_review_columns_that_are_not_there_are_ignored_unless_required():
    rows = table([("q", "a")], Clasification=["no"])
    assert reasons(DropInvalid().bound().apply(rows, Counter())) == [None]
    required = DropInvalid().bound(DropInvalid.Config(require=True))
    with pytest.raises(Exception, match="did you mean 'Clasification'"):
        required.apply(rows, Counter())


def test_unquoted_no_of_yaml_means_the_word():
    config = DropInvalid.Config.model_validate({"marks": {"ok": [False, "maybe"]}})
    assert config.marks == {"ok": ("no", "maybe")}
