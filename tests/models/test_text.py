"""Rows to tokens: what is learnt, what is cut, what is dropped and where it is counted."""

from __future__ import annotations

import pytest
from support.instruction_stages import InstructionText
from support.tiny_models import fetched, qa_table, word_tokenizer
from transformers import AutoTokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import DROPPED
from ray_pipeline.models import text as tokens
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.train.batches import TokenRows


def learnt(tokenizer, row) -> list[str]:
    ids = [i for i, counts in zip(row["input_ids"], row["answer_mask"], strict=True) if counts]
    return tokenizer.convert_ids_to_tokens(ids)


def test_plain_text_learns_the_answer_and_its_end() -> None:
    tokenizer = word_tokenizer()
    config = TextConfig(prompt="question : {question} answer :", answer=" {answer}")
    made = Tokeniser(tokenizer, config)(qa_table(["what is a ?"], ["b c"]))
    (row,) = made.to_pylist()
    assert learnt(tokenizer, row) == ["b", "c", "<eos>"]
    prompt = tokenizer("question : what is a ? answer :")["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # and the end is learnt all the same


def test_chat_learns_the_answer_and_the_end_of_its_turn() -> None:
    tokenizer = word_tokenizer(chat=True)
    made = Tokeniser(tokenizer)(qa_table(["what is a ?"], ["b c"]))
    assert learnt(tokenizer, made.to_pylist()[0]) == ["b", "c", "<|end|>"]


def test_every_row_is_accounted_for() -> None:
    config = TextConfig(prompt="{question}", max_tokens=6)
    long_answer, long_question = " ".join("abcdef"), " ".join("abcdefa")
    rows = qa_table(
        ["a", None, "  ", "a", "a", "a", long_question],
        ["b", "b", "b", None, " \n ", long_answer, "b"],
    )
    made = Tokeniser(word_tokenizer(), config)(rows)
    assert made["row_id"].to_pylist() == rows["row_id"].to_pylist()
    assert made["reason"].to_pylist() == [
        None,
        tokens.NO_QUESTION,
        tokens.NO_QUESTION,
        tokens.NO_ANSWER,
        tokens.NO_ANSWER,
        None,
        f"{tokens.PROMPT_TOO_LONG}: 7 tokens",
    ]
    dropped = [reason is not None for reason in made["reason"].to_pylist()]
    assert [status == DROPPED for status in made["status"].to_pylist()] == dropped
    assert made["tokens_cut"].to_pylist() == [0, 0, 0, 0, 0, 2, 0]  # f and the end of text
    kept = [made["input_ids"][0].as_py(), made["input_ids"][5].as_py()]
    assert [len(ids) for ids in kept] == [3, 6]
    assert [sum(made["answer_mask"][row].as_py()) for row in (0, 5)] == [2, 5]


def test_overlong_rows_are_dropped_where_asked() -> None:
    config = TextConfig(prompt="{question}", max_tokens=4, overlong="drop")
    made = Tokeniser(word_tokenizer(), config)(qa_table(["a", "a"], ["b c", "b c d"]))
    assert made["reason"].to_pylist() == [None, f"{tokens.TOO_LONG}: 5 tokens"]


def test_only_bad_rows_or_none_are_no_error() -> None:
    made = Tokeniser(word_tokenizer())(qa_table([None], ["b"]))
    assert made.drop_columns("row_id").to_pylist() == [
        {
            "input_ids": None,
            "answer_mask": None,
            "tokens_cut": 0,
            "status": DROPPED,
            "reason": tokens.NO_QUESTION,
        }
    ]
    assert Tokeniser(word_tokenizer())(qa_table([], [])).num_rows == 0


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError, match="no chat template"):
        Tokeniser(word_tokenizer(), TextConfig(style="chat"))
    without_end = word_tokenizer()
    without_end.eos_token = None
    with pytest.raises(UserError, match="end-of-text"):
        Tokeniser(without_end)
    rows = qa_table(["a"], ["b"]).rename_columns(["row_id", "question", "answers"])
    with pytest.raises(UserError, match="no column 'answer'; nearest: 'answers'"):
        Tokeniser(word_tokenizer())(rows)


def test_template_that_rewrites_the_prompt_fails_its_rows_not_the_batch() -> None:
    tokenizer = word_tokenizer(chat=True)
    tokenizer.chat_template = "{{ messages | length }} {{ messages[-1].content }}"
    made = Tokeniser(tokenizer)(qa_table(["a"], ["b"]))
    assert made["reason"].to_pylist() == [tokens.TEMPLATE]


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gpt2-tokenizer"])
def test_real_tokenizers_see_in_training_what_they_see_when_asked(name: str) -> None:
    folder = fetched(name)
    if folder is None:
        pytest.skip(f"{name} is not fetched")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokeniser = Tokeniser(tokenizer)
    question, answer = "What is the capital of France?", "\n Paris, since 987 — mostly."
    (row,) = tokeniser(qa_table([question], [answer])).to_pylist()
    prompt = tokeniser.prompt_ids([tokeniser.prompt(question)])[0]
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["answer_mask"] == [False] * len(prompt) + [True] * (
        len(row["input_ids"]) - len(prompt)
    )
    text = tokenizer.decode(row["input_ids"][len(prompt) :])
    assert text.strip() == answer.strip() + tokenizer.eos_token


def test_a_text_is_learnt_as_a_whole_where_asked() -> None:
    """All but its first token, which nothing predicts; and cut where it is too long."""
    tokenizer = word_tokenizer()
    config = TextConfig(prompt="{question}", learn="all", max_tokens=5)
    made = Tokeniser(tokenizer, config)(qa_table(["what is", "a"], ["b c", "b c d e f"]))
    first, second = made.to_pylist()
    assert learnt(tokenizer, first) == ["is", "b", "c", "<eos>"]
    assert learnt(tokenizer, second) == ["b", "c", "d", "e"] and second["tokens_cut"] == 2
    rows = TokenRows(made)
    assert rows.answer_tokens.tolist() == [4, 4] and rows.lengths.tolist() == [5, 5]
    for layout in ("right", "left", "packed"):
        batch = rows.batch([0, 1], layout)
        assert int(batch.predicted.sum()) == int(rows.answer_tokens.sum()) == 8


def test_what_is_learnt_is_no_part_of_older_fingerprints() -> None:
    assert "learn" not in TextConfig().identity()
    assert TextConfig(learn="all").identity()["learn"] == "all"
    # Here it was always named: the default of these texts is to learn all of them.
    assert InstructionText().identity()["learn"] == "all"
    assert InstructionText(learn="answer").identity()["learn"] == "answer"
    assert TextConfig.model_validate_json(InstructionText().model_dump_json()).learn == "all"
