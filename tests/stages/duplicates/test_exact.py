"""Exact duplicates, shared questions and answers: what is equal, who wins, whatever the layout."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local_tables import decisions

from ray_pipeline.stage import Settings
from ray_pipeline.stages.duplicates.exact import ExactDuplicates, SameText
from ray_pipeline.stages.text.keys import normalised


def rows_of(*pairs: tuple[str | None, str | None]) -> pa.Table:
    """Rows with ids that depend on nothing but their place here."""
    ids = [hashlib.md5(str(i).encode()).hexdigest() for i in range(len(pairs))]
    return pa.table(
        {
            "row_id": pa.array(ids, pa.string()),
            "question": pa.array([question for question, _ in pairs], pa.string()),
            "answer": pa.array([answer for _, answer in pairs], pa.string()),
        }
    )


def losers(stage: object, rows: pa.Table, folder: Path) -> dict[int, int]:
    """Who lost to whom, by position."""
    ids = rows["row_id"].to_pylist()
    made = decisions(stage, rows, folder)  # type: ignore[arg-type]
    return {ids.index(k): ids.index(str(v["duplicate_of"])) for k, v in made.items()}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is it?", "what  is it"),
        ("“What's it?”", "Whats it?"),
        ("ﬁne", "FINE"),
        ("1,000.5 km", "1.000,5 km"),
    ],
)
def test_what_counts_as_the_same_text(one: str, other: str) -> None:
    if "km" in one:
        assert normalised(one) == "1.000.5 km"  # the points and commas of numbers stay apart
    else:
        assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"), [("C", "C++"), ("5", "-5"), ("1.5", "15"), ("C#", "C"), ("10%", "10")]
)
def test_what_is_another_text(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


WILD = st.text("ab'’.,09 \t\n\x1c\x85\u2028\u3000…«“”ßİǅ①²\0½-+") | st.text()


@given(WILD)
def test_normalised_is_these_four_substitutions(text: str) -> None:
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = re.sub(r"(?<=\w)['’](?=\w)", "", folded)
    folded = re.sub(r"(?<=\d)[.,](?=\d)", "\0", folded)
    folded = re.sub(r"[\s.,;:!?'\"()\[\]{}…“”‘’«»`´]+", " ", folded)
    assert normalised(text) == folded.strip().replace("\0", ".")


def test_the_longest_of_equal_rows_stays(tmp_path: Path) -> None:
    rows = rows_of(
        ("Who is it", "He"), ("Who is it?", "He."), ("Who is it?", "she"), ("who is it", "he")
    )
    assert losers(ExactDuplicates("question", "answer").bound(), rows, tmp_path) == {0: 1, 3: 1}
    made = decisions(ExactDuplicates("question", "answer").bound(), rows, tmp_path / "again")
    assert {row["reason"] for row in made.values()} == {"duplicate:exact"}
    assert {row["status"] for row in made.values()} == {"dropped"}


def test_the_tidiest_of_equally_long_rows_stays(tmp_path: Path) -> None:
    rows = rows_of(
        ("who wrote it ?", "He"),
        ("Who wrote it?", "He"),
        ("WHO WROTE IT?", "He"),
        ("Who  wrote it?", "He"),
    )
    assert losers(ExactDuplicates("question", "answer").bound(), rows, tmp_path) == {
        0: 1,
        2: 1,
        3: 1,
    }


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "A", "a.", "b", "b b", None]), st.sampled_from("xyX"))
    ),
    st.randoms(),
)
def test_winners_do_not_depend_on_order_or_layout(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str | None, str]], random: object
) -> None:
    rows = rows_of(*pairs)
    order = list(range(len(pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for stage in (
        ExactDuplicates("question", "answer").bound(),
        SameText("question").bound(),
        SameText("answer", ignore=("true", "false")).bound(),
    ):
        folder = tmp_path_factory.mktemp("tables")
        first = decisions(stage, rows, folder / "1", units=1)
        assert decisions(stage, rows, folder / "3", units=3) == first
        assert decisions(stage, rows.take(pa.array(order, pa.int64())), folder / "m") == first


def test_all_rows_equal(tmp_path: Path) -> None:
    rows = rows_of(*[("same", "same")] * 500)
    made = decisions(ExactDuplicates("question", "answer").bound(), rows, tmp_path, units=7)
    assert len(made) == 499
    (winner,) = {row["duplicate_of"] for row in made.values()}
    assert winner not in made


def test_shared_questions_are_marked_and_stay(tmp_path: Path) -> None:
    rows = rows_of(("Q?", "one"), ("q", "two"), ("Other?", "one"), ("", "x"), (None, "y"))
    made = decisions(SameText("question").bound(), rows, tmp_path)
    assert set(made) == set(rows["row_id"].to_pylist()[:2])
    assert len({row["same_question_group"] for row in made.values()}) == 1
    assert all(row["status"] is None for row in made.values())


@pytest.mark.parametrize(("keep", "dropped"), [("best", 1), ("none", 2)])
def test_shared_questions_may_be_dropped(tmp_path: Path, keep: str, dropped: int) -> None:
    rows = rows_of(("Q?", "one"), ("q", "two"), ("Other?", "one"))
    stage = SameText("question").bound(SameText.Config(keep=keep))
    made = decisions(stage, rows, tmp_path)
    reasons = [row["reason"] for row in made.values() if row["status"] == "dropped"]
    assert reasons == ["duplicate:same_question"] * dropped


def test_answers_that_many_questions_share_by_nature(tmp_path: Path) -> None:
    rows = rows_of(("A?", "True"), ("B?", "true."), ("C?", "Rome"), ("D?", "rome"))
    made = decisions(SameText("answer", ignore=("true", "false")).bound(), rows, tmp_path)
    assert set(made) == set(rows["row_id"].to_pylist()[2:])


def test_the_key_of_a_text_depends_on_the_run_and_who_is_dropped_does_not(tmp_path: Path) -> None:
    rows = rows_of(("a b", "c"), ("A  B", "c!"), ("a", "b c"), (None, ""), ("", None))
    keys, lost = [], []
    for seed in (0, 1, 2**70):
        stage = ExactDuplicates("question", "answer").bound({}, Settings(seed=seed))
        made = stage.keys(rows.append_column("ref", pa.array(range(5), pa.int64())))
        keys.append(list(zip(made["key"].to_pylist(), made["check"].to_pylist(), strict=True)))
        lost.append(losers(stage, rows, tmp_path / str(seed)))
    assert lost[0] == lost[1] == lost[2] and len(lost[0]) == 2
    assert all(len(set(of_seed)) == 3 for of_seed in keys)
    assert not set(keys[0]) & set(keys[1]) and not set(keys[1]) & set(keys[2])
