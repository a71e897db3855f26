"""The teacher's cache: what is stored is what the teacher says, and nothing else is accepted."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from support.stored_parts import put_part
from support.tiny_models import VOCABULARY, tiny_model, token_table, word_tokenizer
from support.tiny_study import tiny_job
from transformers import AutoTokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.models import packaged as models
from ray_pipeline.models.tokenizer import tokenizer_hash, vocabulary_size
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.forward import AnswerModel, OnlineTeacher
from ray_pipeline.train.job import train
from ray_pipeline.train.loop import World
from ray_pipeline.train.losses import Objective, answer_loss
from ray_pipeline.train.student import load
from ray_pipeline.train.teacher_cache import (
    PARQUET,
    CachedTeacher,
    CacheInfo,
    CacheWriter,
)
from ray_pipeline.train.vllm_cache import VllmCacheWriter, tail_of

INFO = CacheInfo(k=8, vocabulary=VOCABULARY, tokenizer="t", teacher="tiny")
MIX = Objective(0.4, 0.6, 2.0)


def cache(rows: TokenRows, info: CacheInfo = INFO, **sizes) -> pa.Table:
    plan = BatchPlan(rows, BatchConfig(**{"batch_tokens": 60, **sizes}))
    return CacheWriter(tiny_model("llama", seed=2).float(), info)(rows, plan.in_order())


@pytest.fixture(scope="module")
def rows() -> TokenRows:
    return TokenRows(token_table(12))


@pytest.fixture(scope="module")
def table(rows) -> pa.Table:
    return cache(rows)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_through_parquet_it_says_what_the_teacher_says(rows, tmp_path, temperature) -> None:
    info = replace(INFO, k=VOCABULARY)
    pq.write_table(cache(rows, info), tmp_path / "cache.parquet", **PARQUET)
    read = pq.read_table(tmp_path / "cache.parquet")
    cached = CachedTeacher(read, rows, info)
    online = OnlineTeacher(tiny_model("llama", seed=2).float(), VOCABULARY)
    student, objective = (
        AnswerModel(tiny_model("llama", seed=1).float()),
        Objective(0, 1, temperature),
    )
    for layout in ("right", "left", "packed"):
        batch = rows.batch([7, 2, 11, 0], layout)
        losses = [answer_loss(student(batch), objective, 1, one(batch)).loss.item()
                  for one in (cached, online)]  # fmt: skip
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # float16


def test_it_does_not_depend_on_batches_or_the_order_of_rows(rows, table) -> None:
    other = cache(rows, batch_rows=1)
    assert other["teacher_ids"].equals(table["teacher_ids"])
    mixed = table.take(pa.array([5, 3, 11, 0, 1, 2, 4, 6, 7, 8, 9, 10]))
    batch = rows.batch([4, 9])
    one, two = (CachedTeacher(t, rows, INFO)(batch) for t in (table, mixed))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.tail, two.tail)
    some = TokenRows(token_table(12).slice(4, 3))  # a part of the rows finds its own
    assert torch.equal(CachedTeacher(table, some, INFO)(some.batch([0])).ids,
                       CachedTeacher(table, rows, INFO)(rows.batch([4])).ids)  # fmt: skip


def test_its_size_is_as_said() -> None:
    rows = TokenRows(token_table(40, vocabulary=300))
    info = CacheInfo(64, 300, "t", "tiny")
    plan = BatchPlan(rows, BatchConfig(batch_tokens=60))
    made = CacheWriter(tiny_model("llama", vocabulary=300), info)(rows, plan.in_order())
    lists = made.select(["teacher_ids", "teacher_log_probs", "teacher_tail"])
    values = sum(column.combine_chunks().values.nbytes for column in lists.columns)
    assert values / rows.answer_tokens.sum() == 64 * (2 + 2) + 4
    assert (
        CacheInfo(64, 70_000, "t", "tiny").schema().field("teacher_ids").type.value_type
        == pa.int32()
    )


def test_a_cache_of_something_else_is_refused(rows, table) -> None:
    for change, said in (
        ({"k": 9}, "k: 8, needed 9"),
        ({"vocabulary": 60}, "vocabulary: 67, needed 60"),
        ({"tokenizer": "u"}, "tokenizer: t, needed u"),
        ({"teacher": "big"}, "teacher: tiny, needed big"),
    ):
        with pytest.raises(UserError, match=said):
            CachedTeacher(table, rows, replace(INFO, **change))
    with pytest.raises(UserError, match="no cache of a teacher"):
        CachedTeacher(table.replace_schema_metadata(None), rows, INFO)
    with pytest.raises(UserError, match="lacks 2 of 12 rows, such as row-10"):
        CachedTeacher(table.slice(0, 10), rows, INFO)
    with pytest.raises(UserError, match="other tokens than the teacher's cache"):
        CachedTeacher(table, TokenRows(token_table(12, seed=1)), INFO)


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(UserError, match="k is 68: take 1 to 67"):
        CacheWriter(tiny_model(), replace(INFO, k=68))
    with pytest.raises(UserError, match="67 logits and the tokenizer 80"):
        CacheWriter(tiny_model(), replace(INFO, vocabulary=80))


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")
def test_vllm_says_what_transformers_says(tmp_path) -> None:
    folder = models.resolve("smollm2-135m-instruct")
    size = vocabulary_size(AutoTokenizer.from_pretrained(folder))
    info = CacheInfo(8, size, "tokenizer", "teacher")
    rows = TokenRows(token_table(6, vocabulary=size))
    plain = CacheWriter(load(folder), info)(rows, BatchPlan(rows).in_order())
    writer = VllmCacheWriter(folder, info, "float32", {"max_model_len": 256})
    theirs = writer(rows)
    writer.close()
    assert theirs.schema == plain.schema
    for name in ("row_id", "tokens_hash"):
        assert theirs[name].equals(plain[name])
    for name in ("teacher_log_probs", "teacher_tail"):
        one, other = (pc.list_flatten(t[name]).to_numpy() for t in (plain, theirs))
        assert one == pytest.approx(other, abs=0.02), name
    same = pc.equal(*(pc.list_flatten(t["teacher_ids"]) for t in (plain, theirs)))
    assert pc.mean(same).as_py() > 0.95  # near ties may change places


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
def test_the_tail_that_vllm_leaves_out_is_right_to_its_rounding(scale: float) -> None:
    logits = torch.randn(64, 500, generator=torch.Generator().manual_seed(1)) * scale
    exact = logits.double().log_softmax(-1).topk(8).values
    tails = 1 - exact.exp().sum(1)
    said = tail_of(exact.float().double().numpy(), 500)
    assert (said >= 0).all()
    for tail, found, last in zip(tails.tolist(), said.tolist(), exact[:, -1].tolist(), strict=True):
        assert abs(found - tail) <= 1e-6
        assert found <= 492 * math.exp(last) * (1 + 1e-4)
    whole = np.log(np.full((1, 4), 0.25))
    assert tail_of(whole, 4).tolist() == [0.0]


def test_a_training_refuses_the_cache_of_another_tokenizer(tmp_path) -> None:
    """It is compared with the model that is trained, not with itself."""
    job = replace(tiny_job(tmp_path), teacher="cached")
    path = tmp_path / "part.parquet"
    table = pq.read_table(path)
    rows = TokenRows(table)
    tokenizer = word_tokenizer()
    fits = CacheInfo(4, vocabulary_size(tokenizer), tokenizer_hash(tokenizer), "tiny")
    teacher = tiny_model().float()

    def trained_with(info: CacheInfo) -> None:
        plan = BatchPlan(rows, BatchConfig(batch_tokens=512))
        made = CacheWriter(teacher, info)(rows, plan.in_order())
        added = table
        for name in made.column_names:
            if name != "row_id":
                added = added.append_column(name, made[name])
        teachers = pa.array([info.to_json()] * table.num_rows)
        put_part(path, added.append_column("teacher", teachers))
        train(replace(job, folder=info.tokenizer), World(), "cpu", lambda _: None)

    trained_with(fits)
    with pytest.raises(UserError, match=r"teacher's cache does not fit \(tokenizer: other, needed"):
        trained_with(replace(fits, tokenizer="other"))
