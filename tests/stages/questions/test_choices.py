import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.stages.questions import choices

WORDS = st.lists(
    st.sampled_from(
        ["Paris", "blue", "42", "1,000", "km/h", "St.", "U.S.", "c#", "don't", "B12", "I"]
    ),
    min_size=1,
)
OPTION = WORDS.map(" ".join)
STEM = st.sampled_from(
    [
        "Which one is it?",
        "Vitamin (B) is found in",
        "In the U. S. A. it is called?",
        "This is a fruit.",
        "He said: choose",
        "Where is plan (A) used?",
    ]
)
MARKERS = ["({})", "[{}]", "{})", "{}."]


@pytest.mark.parametrize("separator", [" ", "\n"])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("marker", MARKERS)
@settings(deadline=None)
@given(stem=STEM, options=st.lists(OPTION, min_size=3, max_size=8))
def test_what_is_written_is_found_again(marker, lower, separator, stem, options):
    letters = choices.LETTERS.lower() if lower else choices.LETTERS
    lines = [f"{marker.format(letters[i])} {option}" for i, option in enumerate(options)]
    text = separator.join([stem, *lines])
    parsed = choices.parse(text)
    assert parsed is not None
    assert parsed.stem == stem
    assert parsed.options == tuple(options)
    assert text[: parsed.start].strip() == stem


@settings(deadline=None)
@given(st.text("ABCabc().[] \nxyz?", max_size=60))
def test_any_text_is_parsed_without_loss_or_error(text):
    parsed = choices.parse(text)
    choices.is_malformed(text)
    if parsed is not None:
        assert text.startswith(parsed.stem, len(text) - len(text.lstrip()))
        assert len(parsed.options) >= 2
        assert all(parsed.options)


@pytest.mark.parametrize(
    "text",
    [
        "Which vitamin (B) is also called folic acid?",
        "Is vitamin (A) or vitamin C better?",
        "Vitamins (A) and (B) dissolve in fat?",
        "He was born in the U. S. A. Both parents came from Europe.",
        "Is it hepatitis A. Hepatitis B. or C.",
        "Which one? (A) x",
        "Which one? (A) x (C) y",
        "Which one? (B) x (C) y",
        "Which one? (A) x (B) y (D) z",
        "Which one? (A)  (B) y (C) z",
        "(A) x (B) y",
        "He paid company A. It was plan B. Nothing else.",
        "",
    ],
)
def test_what_is_not_multiple_choice(text):
    assert choices.parse(text) is None


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Which? (A) x, (B) y, or (C) z", ("x", "y", "z")),
        ("Which film? (A) E.T. (B) Back to the Future (I) (C) Jaws", None),
        ("Which film? (A) E.T. (B) Jaws (C) Back to the Future (I)", None),
        ("Of (A) and (B), which? (A) x (B) y", ("x", "y")),
        ("The capital of France is A. Paris B. London C. Rome", ("Paris", "London", "Rome")),
        ("The capital of France is A) Paris B) London", ("Paris", "London")),
        ("Which?(A)x(B)y", ("x", "y")),
        ("Which? A: x B: y", ("x", "y")),
    ],
)
def test_notations(text, options):
    parsed = choices.parse(text)
    assert parsed is not None
    if options:
        assert parsed.options == options


def test_options_that_cannot_be_told_apart():
    assert choices.is_malformed("Which one? (A)  (B) y (C) z")
    assert choices.is_malformed("Which one? (A) x (B) y (D) z")
    assert not choices.is_malformed("Which one? (A) x (B) y (C) z")
    assert not choices.is_malformed("Vitamins (A) and (B) dissolve in fat?")


@pytest.mark.parametrize(
    "answer", ["B", "b", "(B)", "(b)", "[B]", "B.", "b)", "B:", "B. Paris", "(b) paris"]
    + ["answer: B", "The correct answer is B", "Option B", "the answer is (b) Paris."],
)  # fmt: skip
def test_answers_by_letter(answer):
    assert choices.match_letter(answer, ["London", "Paris", "Rome"]) == 1


@pytest.mark.parametrize("answer", ["A. Lincoln", "a dog", "E", "Paris", "B minor", "", "Bananas"])
def test_answers_that_name_no_letter(answer):
    assert choices.match_letter(answer, ["London", "Paris", "Rome"]) is None


def test_answers_by_text_and_spelling():
    options = ["10%", "-5", "5", "Isaac Newton", "Charles I", "Charles II"]
    assert choices.match_text(" 5.", options) == 2
    assert choices.match_text("isaac  newton", options) == 3
    assert choices.match_text("10", options) is None
    assert choices.match_fuzzy("Newton, Isaac", options, 90) == (3, pytest.approx(100, abs=10))
    assert choices.match_fuzzy("Isac Newton", options, 90)[0] == 3
    assert choices.match_fuzzy("King Charles I", ["Charles II", "George I"], 60) is None
    assert choices.match_fuzzy("1945", ["1946", "1944"], 50) is None
    assert choices.match_text("T", ["False", "True"]) == 1
    assert choices.match_text("wrong", ["True", "False"]) == 1


@pytest.mark.parametrize(
    ("option", "meaning"),
    [
        ("All of these", "cats, dogs and bats"),
        ("all of the above.", "cats, dogs and bats"),
        ("Both A and B", "cats and dogs"),
        ("A, B and C", "cats, dogs and bats"),
        ("(A) and (C)", "cats and bats"),
        ("All of Europe", None),
        ("Both and neither", None),
        ("None of these", None),
        ("cats", None),
        ("A and F", None),
    ],
)
def test_options_about_other_options(option, meaning):
    assert choices.spell_out(option, ["cats", "dogs", "bats", option]) == meaning


def test_none_of_the_options():
    assert choices.is_none_of_the_options("None of these")
    assert choices.is_none_of_the_options("none of the above.")
    assert choices.is_none_of_the_options("Neither")
    assert not choices.is_none_of_the_options("None of the emperors")
    assert not choices.is_none_of_the_options("None is better than the other")


@pytest.mark.parametrize(
    ("question", "refers"),
    [
        ("Which of these is a mammal?", True),
        ("Which of the following is a mammal?", True),
        ("All of these are mammals except one. Which one?", True),
        ("Which is the odd one out?", True),
        ("What is the capital of France?", False),
        ("Who became king in the following year?", False),
        ("Which lake lies above sea level?", False),
        ("What is a stock option?", False),
    ],
)
def test_questions_that_refer_to_their_options(question, refers):
    assert choices.refers_to_options(question) is refers
