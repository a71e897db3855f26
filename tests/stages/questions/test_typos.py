import random
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.stage_tables import table

from ray_pipeline.core.rows import created_row_id, set_column
from ray_pipeline.engine.segments import apply_map
from ray_pipeline.stage import Settings
from ray_pipeline.stages.questions.typos import NEIGHBOURS, Typos, _word_of, add_typos

QUESTION = "Which river doesn't flow through the 7 largest cities of NASA's B12 country?"
WEIGHTS = Typos.Config().weights
words = st.sampled_from(
    ["river", "the", "of", "don't", "1945", "B12", "NASA", "U.S.A.", "a@b.org", "Zürich", "été"]
    + ["東京都", "नमस्ते", "x_y", "ﬁne", "Ⅷabc", "'quoted'", "well-known", "ß", "ITALIC", "½cup"]
)
texts = st.one_of(
    st.text(max_size=80),
    st.lists(words, max_size=14).map(" ".join),
    st.text("abc'’ 19\t\n-.", max_size=60),
)


def typos(text, seed=0, per=4, weights=WEIGHTS):
    return add_typos(text, random.Random(seed), per, 3, weights)


@given(text=texts, seed=st.integers(0, 99), per=st.integers(1, 6))
@hypothesis_settings(max_examples=600, deadline=None)
def test_the_number_of_errors_and_what_they_leave_alone(text, seed, per):
    made, kinds = typos(text, seed, per)
    able = [word for word in text.split() if _word_of(word, 3) is not None]
    assert len(kinds) == min(len(able), max(1, len(text.split()) // per))
    assert [c for c in made if c.isnumeric()] == [c for c in text if c.isnumeric()]
    assert (made == text) == (not kinds)
    for word in set(text.split()) - set(able):
        # Untouched, though the space before it may be gone.
        assert word in made
    assert typos(text, seed, per) == (made, kinds)


@given(word=st.from_regex(r"[A-Za-z']{3,12}", fullmatch=True), seed=st.integers(0, 99))
@hypothesis_settings(max_examples=300, deadline=None)
def test_an_error_changes_a_word_by_one_step_behind_its_first_letter(word, seed):
    made, kinds = typos(word, seed)
    if not kinds:
        return
    first = next(i for i, c in enumerate(word) if c.isalpha())
    assert abs(len(made) - len(word)) <= 1
    if kinds != ["apostrophe"]:
        assert made[: first + 1].lower() == word[: first + 1].lower()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("transposition", {"dno't", "don't"}),
        ("apostrophe", {"dont"}),
        ("omission", {"dn't", "do't", "don'"}),
        ("doubling", {"doon't", "donn't", "don'tt"}),
    ],
)
def test_kinds(kind, expected):
    weights = {kind: 1e9, "omission": 1.0} if kind != "omission" else {kind: 1.0}
    assert {typos("don't", seed, weights=weights)[0] for seed in range(60)} <= expected


def test_a_forgotten_space_joins_two_words_but_no_number():
    weights = {"space": 1e9, "omission": 1.0}
    made, kinds = typos("the river", seed=1, weights=weights)
    assert {typos("the river", s, weights=weights)[0] for s in range(20)} > {"theriver"}
    made, kinds = typos("river 1945", weights=weights)
    assert made.endswith(" 1945")
    assert kinds == ["omission"]


def test_neighbours_are_mutual():
    assert NEIGHBOURS["s"] == "adewxz"
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


def stage(seed=7, **config):
    return Typos().bound(Typos.Config(**config), Settings(seed=seed))


def test_a_row_is_made_for_each_original_and_for_no_version():
    rows = table(
        [(QUESTION, "x"), ("y", "z"), ("1945?", "b")], version=[None, "formal", "original"]
    )
    rows = set_column(rows, "note", pa.array(["n", "n", "n"]))
    counts: Counter[str] = Counter()
    out = apply_map(stage(), rows, counts)
    assert out["row_id"].to_pylist() == [
        "row0",
        "row1",
        "row2",
        created_row_id("row0", "augment-typos", 0),
        created_row_id("row2", "augment-typos", 0),
    ]
    assert out["parent_id"].to_pylist() == [None, None, None, "row0", "row2"]
    assert out["version"].to_pylist() == ["original", "formal", "original", "typos", "typos"]
    assert out["source_question"].to_pylist() == [None, None, None, QUESTION, "1945?"]
    assert out["note"].to_pylist() == ["n", "n", "n", None, None]
    assert out["answer"].to_pylist() == ["x", "z", "b", "x", "b"]
    assert out["question"][3].as_py() != QUESTION
    assert out["question"][4].as_py() == "1945?"
    assert counts.total() == 3  # 12 words


def test_errors_depend_on_seed_and_row_alone():
    rows = table([(f"{QUESTION} {i}", "x") for i in range(6)])
    whole = apply_map(stage(), rows, Counter())["question"].to_pylist()[6:]
    alone = [
        apply_map(stage(), rows.slice(i, 1), Counter())["question"].to_pylist()[1] for i in range(6)
    ]
    assert whole == alone
    assert whole != apply_map(stage(seed=8), rows, Counter())["question"].to_pylist()[6:]


def test_no_rows_and_answers_too():
    assert apply_map(stage(), table([]), Counter()).num_rows == 0
    out = apply_map(stage(columns=["question", "answer"]), table([(QUESTION, QUESTION)]), Counter())
    question, answer = out["question"][1].as_py(), out["answer"][1].as_py()
    assert len({QUESTION, question, answer}) == 3


def test_weights_must_leave_an_error_that_every_word_can_take():
    with pytest.raises(ValueError, match="omission or doubling"):
        Typos.Config(weights={"space": 1.0})
