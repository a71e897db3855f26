"""Encoder-decoders and token classifiers: the loss is a plain one, however a step is divided."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.tiny_models import label_table, tiny_labeller, tiny_seq2seq, token_table

from ray_pipeline.core.errors import UserError
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.loop import Loop, LoopConfig, World
from ray_pipeline.train.losses import Objective, answer_loss
from ray_pipeline.train.replica import Whole

KINDS = ["t5", "bart", "labels"]


def model_of(kind: str) -> Any:
    return tiny_labeller() if kind == "labels" else tiny_seq2seq(kind)


def rows_of(kind: str, number: int = 16) -> TokenRows:
    return TokenRows(label_table(number) if kind == "labels" else token_table(number))


def sides(rows: TokenRows, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.tensor(rows.ids(row)).long(), torch.tensor(rows.mask(row).copy())
    return ids[~mask][None], ids[mask][None]


@pytest.mark.parametrize("layout", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_transformers_row_by_row_without_padding(kind: str, layout) -> None:
    model, rows = model_of(kind).eval(), rows_of(kind)
    nats = tokens = 0
    for row in range(len(rows)):
        prompt, answer = sides(rows, row)
        if kind == "labels":
            logits = model(input_ids=prompt).logits[0, 1:-1]
            nats += F.cross_entropy(logits, answer[0], reduction="sum")
        else:
            nats += model(input_ids=prompt, labels=answer).loss * answer.numel()
        tokens += answer.numel()
    batch = rows.batch(range(len(rows)), layout)
    loss = answer_loss(AnswerModel(model)(batch), Objective(), tokens)
    assert loss.tokens == tokens
    torch.testing.assert_close(loss.loss, nats / tokens, rtol=1e-10, atol=0)


def first_step(
    kind: str, batch_rows: int, world: World | None = None, model: Any = None
) -> dict[str, Any]:
    """The figures of a step of 16 rows."""
    figures: list[dict[str, Any]] = []
    Loop(
        Whole(model or model_of(kind)),
        BatchPlan(rows_of(kind), BatchConfig(step_rows=16, batch_rows=batch_rows)),
        config=LoopConfig(max_steps=1, clip_norm=None, schedule="constant", warmup=0),
        world=world or World(),
        report=figures.append,
    ).run()
    return figures[0]


def on_two_ranks(kind: str, batch_rows: int) -> dict[str, Any]:
    """Two ranks as threads that sum tensors. ``test_ranks.py`` has real processes."""
    meet, given = Barrier(2, timeout=60), [torch.zeros(1), torch.zeros(1)]
    models = [model_of(kind), model_of(kind)]  # not in the threads: they share a random generator

    def rank(number: int) -> dict[str, Any]:
        def all_reduce(tensor: torch.Tensor) -> None:
            given[number] = tensor.clone()
            meet.wait()
            total = given[0] + given[1]
            meet.wait()
            tensor.copy_(total)

        return first_step(kind, batch_rows, World(number, 2, all_reduce), models[number])

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(rank, range(2))
    assert first["gradient_norm"] == second["gradient_norm"]
    return first


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_norm_are_the_same_for_16_rows_and_4_times_4_and_on_two_ranks(
    kind: str,
) -> None:
    whole = first_step(kind, 16)
    assert whole["gradient_norm"] > 0.01
    for divided in (first_step(kind, 4), on_two_ranks(kind, 8), on_two_ranks(kind, 2)):
        for name in ("loss", "gradient_norm", "answer_tokens"):
            assert divided[name] == pytest.approx(whole[name], rel=1e-10), name


def test_a_t5_learns_to_copy_one_word() -> None:
    model, rows = tiny_seq2seq("t5").float(), rows_of("t5", 4)
    figures: list[dict[str, Any]] = []
    config = LoopConfig(epochs=60, learning_rate=0.03, schedule="constant", weight_decay=0)
    Loop(Whole(model), BatchPlan(rows), config=config, report=figures.append).run()
    assert figures[-1]["loss"] < 0.2 * figures[0]["loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_batches_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match="packed is for causal language models"):
        AnswerModel(model_of(kind))(rows_of(kind).batch([0, 1], "packed"))
