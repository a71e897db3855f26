"""Prompts and ends are those of the training; text is what lies between them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_models import qa_table, word_tokenizer

from ray_pipeline.models.decoding import AS_IS, ModelText, trained_format
from ray_pipeline.models.text import TEXT_FILE, TextConfig, Tokeniser

END, EOS = 3, 4  # of word_tokenizer: the template's end of turn, and the end of text


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_and_ends_are_those_of_the_training_rows(chat: bool) -> None:
    tokenizer = word_tokenizer(chat)
    text = ModelText(tokenizer)
    rows = Tokeniser(tokenizer)(qa_table(["what is a ?", "b"], ["c d", "e"])).to_pylist()
    for row, prompt in zip(rows, text.prompts(["what is a ?", "b"]), strict=True):
        answer = row["input_ids"][len(prompt) :]
        assert row["input_ids"][: len(prompt)] == prompt
        assert row["answer_mask"] == [False] * len(prompt) + [True] * len(answer)
        assert answer[-1] in text.ends
    assert text.ends == ({END, EOS} if chat else {EOS})


def test_ends_are_learnt_from_a_whole_answer_even_where_the_rows_were_cut() -> None:
    assert ModelText(word_tokenizer(True), TextConfig(max_tokens=2)).ends == {END, EOS}


def test_an_answer_is_what_comes_before_its_end() -> None:
    tokenizer = word_tokenizer(True)
    b, c, d = tokenizer.convert_tokens_to_ids(["b", "c", "d"])
    text = ModelText(tokenizer, ends=[d])
    made = text.answer([b, c, END, b, b])
    assert (made.text, made.tokens, made.ended) == ("b c", 3, True)
    assert text.answer([b, d, c]).text == "b"  # an end that only the model's configuration names
    made = text.answer([b, c])
    assert (made.text, made.tokens, made.ended) == ("b c", 2, False)
    made = text.answer([END])
    assert (made.text, made.tokens, made.ended) == ("", 1, True)


def test_what_training_put_around_answers_is_not_of_them() -> None:
    tokenizer = word_tokenizer()
    text = ModelText(tokenizer, TextConfig(prompt="{question}", answer=" answer : {answer} ."))
    ids = tokenizer("answer : b c .")["input_ids"]
    assert text.answer([*ids, EOS]).text == "b c"


def test_a_model_is_asked_as_recorded_else_by_its_template_else_as_is(tmp_path: Path) -> None:
    assert trained_format(tmp_path, word_tokenizer(True)).style == "chat"
    assert trained_format(tmp_path, word_tokenizer()) == AS_IS
    assert ModelText(word_tokenizer(), AS_IS).prompts(["a {b} ?"]) == [
        word_tokenizer()("a {b} ?")["input_ids"]
    ]
    recorded = TextConfig(style="plain", prompt="what is {question} ?")
    (tmp_path / TEXT_FILE).write_text(recorded.model_dump_json())
    assert trained_format(tmp_path, word_tokenizer(True)) == recorded
