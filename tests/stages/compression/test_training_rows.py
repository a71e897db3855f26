"""Token rows of compressions: what is learnt of each, and which rows cannot be learnt from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from support.stage_tables import reasons
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.stages.compression.training_rows import (
    TokeniseCompressions,
    aligned,
    prompt_tokens,
)


def letters() -> PreTrainedTokenizerFast:
    """Letters as tokens between [CLS] and [SEP]; white space is one token, ``{`` is unknown."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz?. "]
    vocabulary = {name: number for number, name in enumerate(names)}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    made.normalizer = normalizers.Replace(pattern="  ", content=" ")
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", eos_token="[SEP]",
    )  # fmt: skip


def made(form: str, *pairs: tuple[str, str], **config: Any) -> pa.Table:
    stage = TokeniseCompressions().bound({"form": form, "model": "m", "prefix": "", **config})
    stage._tokenizer = letters()
    columns = {"prompt": [p for p, _ in pairs], "compressed_prompt": [c for _, c in pairs]}
    rows = with_envelope(pa.table(columns), [f"row{i}" for i in range(len(pairs))])
    return stage.apply(rows, Counter())


def test_words_that_stay_are_aligned_in_order() -> None:
    assert aligned("what is the name of the cat?", "name of cat?") == ({3, 4, 6}, 0)
    assert aligned("the cat and the dog", "The dog") == ({3, 4}, 0)
    kept, new = aligned("name the largest lake", "biggest lake")
    assert kept == {3} and new == 0.5


def test_a_word_is_kept_or_dropped_with_all_of_its_tokens() -> None:
    rows = made("keep_or_drop", ("is the cat?", "is cat?"))
    ids, mask = rows["input_ids"][0].as_py(), rows["answer_mask"][0].as_py()
    source, places = prompt_tokens(letters(), "is the cat?")
    labels = ids[len(source) :]
    assert mask == [False] * len(source) + [True] * len(labels)
    assert len(labels) == len(source) - 2
    for text, place, label in zip("is the cat?", places, labels, strict=True):
        if text != " ":
            assert label == (0 if place == 1 else 1), (text, place)


def test_an_encoder_decoder_reads_the_prefix_and_the_prompt_and_learns_the_compression() -> None:
    rows = made("seq2seq", ("a bc", "bc"), prefix="x ")
    tokenizer = letters()
    assert rows["input_ids"][0].as_py() == [*tokenizer("x a bc")["input_ids"],
                                            *tokenizer("bc")["input_ids"]]  # fmt: skip
    assert rows["answer_mask"][0].as_py() == [False] * 8 + [True] * 4


def test_texts_that_the_tokenizer_does_not_give_back_are_dropped_as_lossy() -> None:
    rows = made("seq2seq", ("sort {a b}", "sort {a}"), ("a  b", "b"), ("a b", "b"), (" a b ", "b"))
    assert [str(reason).partition(" ")[0] for reason in reasons(rows)] == [
        "tokenizer:lossy:", "tokenizer:lossy:", "None", "None",
    ]  # fmt: skip
    # A model that keeps words never decodes: what it cannot spell it can keep.
    kept = made("keep_or_drop", ("sort {a b}", "sort {a b}"))
    assert reasons(kept) == [None]


def test_compressions_that_no_deletion_makes_and_long_prompts_are_dropped_with_a_reason() -> None:
    rows = made("keep_or_drop", ("name the largest lake", "biggest lake"))
    assert reasons(rows)[0] == (
        "labels:not_aligned: 50% of the words are not in the prompt, in order"
    )
    assert reasons(made("seq2seq", ("a " * 9, "a"), max_prompt_tokens=10))[0] == (
        "tokens:prompt_too_long: 20 tokens"
    )


@pytest.mark.parametrize("form", ["seq2seq", "keep_or_drop"])
def test_the_same_rows_are_made_in_batches_of_any_size(form: str) -> None:
    pairs = [("is the cat?", "is cat?"), ("a b", "b"), ("name it.", "name")]
    assert made(form, *pairs).equals(made(form, *pairs, batch_rows=1))
