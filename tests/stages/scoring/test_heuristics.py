import json
import os
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.quality_oracle import LiteralScorer
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.models.packaged import fetch
from ray_pipeline.stage import Settings
from ray_pipeline.stages.scoring._heuristics import scorer as scorer_module
from ray_pipeline.stages.scoring._heuristics import word_cache
from ray_pipeline.stages.scoring._heuristics.scorer import QualityScorer
from ray_pipeline.stages.scoring._heuristics.tokens import Tokens
from ray_pipeline.stages.scoring.heuristics import ScoreQuality

SCORES = ("clarity", "response_quality", "diversity", "complexity")
#: Real rows for an optional test: JSONL files with instruction and response.
REAL_ROWS = os.environ.get("RAY_PIPELINE_REAL_ROWS", "")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(fetch("gpt2-tokenizer"))


@pytest.fixture(scope="module")
def literal(tokenizer):
    return LiteralScorer(tokenizer)


@pytest.fixture(scope="module")
def fast(tokenizer):
    return QualityScorer(tokenizer)


def agree(fast, literal, pairs):
    """Score pairs both ways; they must be the same."""
    made = fast(
        pa.array([i for i, _ in pairs], pa.string()), pa.array([r for _, r in pairs], pa.string())
    )
    for row, (instruction, response) in enumerate(pairs):
        expected = literal.score_sample(instruction, response)
        found = {name: float(getattr(made, name)[row]) for name in SCORES}
        assert found == pytest.approx(expected, rel=0, abs=1e-9), (
            instruction[:200],
            response[:200],
        )
        tokens = literal.tokenizer.tokenize(f"{instruction} {response}", split_special_tokens=True)
        assert made.tokens[row] == len(tokens), (instruction[:200], response[:200])
    return made


#: Pieces of text in which each rule, and each library, has its corners.
SNIPPETS = [
    *[
        "",
        " ",
        "  ",
        "   \t",
        "\n",
        "\n\n",
        " \n ",
        "\r\n",
        "\x0b",
        "\x0c",
        "\xa0",
        "\u3000",
        "\u2028",
    ],
    *["\x85", "\x1c", "\x1f", "\x00", "\x7f", "\ufeff", "\u200b", "\ufffd", "\ue000", "\U000e0001"],
    *[
        "a",
        "I",
        "hmm",
        "Hmm.",
        "the",
        "of course",
        "supercalifragilistic",
        "x1y2",
        "3.14",
        "e.g.",
        "...",
    ],
    *[
        "'s",
        "'S",
        "''s",
        "it's",
        " 's",
        "\n's",
        "rock 'n' roll",
        "'ll",
        "'re'",
        "we've'd",
        "'v",
        "'tis",
    ],
    *[
        "don't",
        "dogs'",
        "’s",
        "“quoted”",
        "—",
        "é",
        "e\u0301",
        "ﬁ",
        "ß",
        "İ",
        "İstanbul",
        "K",
        "ſ",
        "ΟΔΟΣ",
    ],
    *[
        "東京都に行く",
        "नमस्ते दुनिया",
        "Привет, мир!",
        "مرحبا ١٢٣",
        "١.",
        "２.",
        "²",
        "½ cup",
        "Ⅷ",
        "🚀",
        "👩‍👩‍👧",
        "🇫🇷",
    ],
    *[
        "1. one\n2. two",
        "10.",
        "\n10.",
        "a\n7.5",
        "-",
        "- item",
        "-\n",
        "-\xa0",
        "a-b",
        "–",
        "1",
        "1)",
        "12\n.",
    ],
    *[
        "def ",
        "def",
        "DEF f",
        "```",
        "``",
        "`",
        "python",
        "PYTHON",
        "code",
        "decode",
        "explain",
        "Write",
    ],
    *[
        "create",
        "first",
        "Second",
        "authentic",
        "finally",
        "footsteps",
        "why",
        "show",
        "analyze",
        "compare",
    ],
    *[
        "evaluate",
        "describe",
        "?",
        "!",
        "?!",
        ".",
        "a. b. c.",
        "A b c. D e f! G h?",
        ". . .",
        "a\n\nb",
    ],
    *[
        "_",
        "__",
        "a_b",
        "_a",
        "a_",
        "self.__init__",
        " _ ",
        "()_",
        "_____",
        "a__b",
        "x_y_z",
        "._",
        "_.",
    ],
    *[
        "<|endoftext|>",
        "<|end",
        "foo<|endoftext|>bar",
        "http://x.org/a?b=c",
        "{'s': 1}",
        "wrıte",
        "WRİTE",
    ],
]
texts = st.one_of(
    st.text(max_size=120),
    st.lists(st.sampled_from(SNIPPETS), max_size=25).map("".join),
    st.lists(st.sampled_from(SNIPPETS), max_size=60).map(" ".join),
    st.text("ab'sdtrevlm .?!-_1\n\t A", max_size=80),
    st.text(" \n\t.'’_-é\xa0\u3000x1", max_size=60),
)


def test_corners(fast, literal):
    rng = random.Random(3)
    pairs = [(one, two) for one in SNIPPETS for two in rng.sample(SNIPPETS, 4)]
    pairs += [(two, one) for one, two in pairs]
    agree(fast, literal, pairs)


@given(pairs=st.lists(st.tuples(texts, texts), max_size=12))
@hypothesis_settings(max_examples=300, deadline=None)
def test_wild_texts(fast, literal, pairs):
    agree(fast, literal, pairs)


def test_enormous_texts(fast, literal):
    rng = random.Random(5)
    words = [s for s in SNIPPETS if len(s) < 12]
    prose = " ".join(rng.choice(words) for _ in range(26_000))
    assert len(prose) > 100_000
    plain = "One more sentence, with a few words and a number like 17. " * 2_000
    pairs = [
        (prose, "short"),
        ("short", prose),
        (plain, plain),
        ("a" * 120_000, "b c " * 30_000),
        ("\n" * 100_000, "." * 100_000),
        ("'" * 100_000, "_" * 100_000),
        ("é" * 60_000, "1" * 100_000 + "."),
    ]
    agree(fast, literal, pairs)


@pytest.mark.parametrize("lengths", [[1, 7], [1, 7, 1, 7], [2, 8, 2, 8], [1, 7, 4], [3, 3], [1, 8]])
def test_the_border_of_variation(fast, literal, lengths):
    response = ". ".join(" ".join(["word"] * n) for n in lengths) + "."
    agree(fast, literal, [("Why?", response), ("Why?", response + " end. ")])


def test_lengths_at_their_borders(fast, literal):
    pairs = [("w " * i, "w " * r) for i in (0, 4, 5, 100, 101) for r in (9, 10, 500, 501)]
    agree(fast, literal, pairs)


def test_pairs_of_tokens_whose_strings_are_the_same(fast, literal):
    # Written with "_" between them, other tokens can make the same pair.
    pieces = ["_", "__", "___", "a", "._", "_.", "a_", "_a", " _", "__a", "1", " "]
    rng = random.Random(1)
    rows = [("", "".join(rng.choices(pieces, k=rng.randint(2, 60)))) for _ in range(300)]
    agree(fast, literal, rows)
    assert fast._tokens._splits_after.sum() > 10


def test_scores_do_not_depend_on_the_batch(fast, monkeypatch):
    rng = random.Random(2)
    pairs = [
        ("".join(rng.choices(SNIPPETS, k=6)), " ".join(rng.choices(SNIPPETS, k=30)))
        for _ in range(300)
    ]
    instructions, responses = (pa.array(column, pa.string()) for column in zip(*pairs, strict=True))
    whole = fast(instructions, responses)
    monkeypatch.setattr(scorer_module, "SLICE_BYTES", 500)
    monkeypatch.setattr(word_cache, "MOST_WORDS", 50)
    monkeypatch.setattr(word_cache, "_MOST_PER_LOOKUP", 30)
    cut = fast(instructions, responses)
    for name in (*SCORES, "tokens"):
        assert (getattr(whole, name) == getattr(cut, name)).all()
    later = fast(instructions.slice(100, 50), responses.slice(100, 50))
    assert (later.diversity == whole.diversity[100:150]).all()


def test_pieces_are_encoded_as_the_tokenizer_does_whichever_way(tokenizer):
    rng = random.Random(4)
    tokens = Tokens(tokenizer)
    assert tokens._encode is not None
    letters = "etaoin shrdlu'é東🚀\x00ß_.-1230"
    texts = ["".join(rng.choices(letters, k=60)) for _ in range(600)]
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    pieces = [text[a:b] for text in texts for _, (a, b) in cut(text)]
    by_pairs = tokens.encode_pieces([piece.encode() for piece in pieces])
    tokens._encode = None
    assert by_pairs == tokens.encode_pieces([piece.encode() for piece in pieces])


def test_a_bounded_memory_of_words(tokenizer, monkeypatch):
    monkeypatch.setattr(word_cache, "MOST_WORDS", 100)
    fast = QualityScorer(tokenizer)
    for start in range(0, 5_000, 100):
        text = " ".join(f"w{n}x{'y' * (n % 60)}" for n in range(start, start + 100))
        fast(pa.array([text]), pa.array([text]))
        assert len(fast._words.cache) < 600
        assert len(fast._readability._syllables) < 400


def stage_of(tokenizer="gpt2-tokenizer"):
    folder = str(fetch(tokenizer))
    stage = ScoreQuality().bound(
        ScoreQuality.Config(tokenizer=tokenizer),
        Settings(models={tokenizer: folder}, revisions={tokenizer: "1"}),
    )
    stage.load()
    return stage


def rows_of(pairs, kind=None):
    instructions, responses = ([pair[i] for pair in pairs] for i in (0, 1))
    table = pa.table(
        {
            "instruction": pa.array(instructions, pa.string()),
            "response": pa.array(responses, pa.string()),
        }
    )
    return with_envelope(table, [f"row{i}" for i in range(len(pairs))])


def test_the_stage_adds_its_columns_and_takes_a_null_for_an_empty_text():
    stage = stage_of()
    counts = Counter()
    out = stage.apply(rows_of([("Why?", "So."), (None, "x"), ("", "x"), ("\ue000", None)]), counts)
    assert out.select(list(stage.writes)).schema == pa.schema(stage.writes)
    scores = out.select(list(stage.writes)).to_pylist()
    assert scores[1] == scores[2]
    assert scores[0]["quality_tokens"] == 4
    assert counts["rows_with_unusual_characters"] == 1
    empty = stage.apply(rows_of([]), counts)
    assert empty.num_rows == 0
    assert set(stage.writes) <= set(empty.column_names)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "all-minilm-l6-v2"])
def test_a_tokenizer_that_cuts_in_another_way(name):
    # The second comes with truncation and padding, and knows neither case nor white space.
    stage = stage_of(name)
    assert not stage._scorer._tokens.cuts_as_gpt2
    literal = LiteralScorer(AutoTokenizer.from_pretrained(fetch(name)))
    pairs = list(zip(SNIPPETS, reversed(SNIPPETS), strict=True))
    agree(stage._scorer, literal, [*pairs, ("many " * 600, "words. " * 600)])


def test_a_tokenizer_that_knows_few_words():
    # Word pieces: white space is no token, and everything unknown is the same one.
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "_": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    wordy = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    pairs = [("", ""), ("the", ""), ("the cat", "the _ dog _ the"), ("\n", " ")]
    agree(QualityScorer(wordy), LiteralScorer(wordy), pairs)


def test_real_rows(fast, literal):
    files = sorted(Path(REAL_ROWS).glob("*.jsonl")) if REAL_ROWS else []
    if not files:
        pytest.skip("RAY_PIPELINE_REAL_ROWS names no folder with JSONL files")
    rows = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    agree(fast, literal, [(row["instruction"], row["response"]) for row in rows])
