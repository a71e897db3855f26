"""Losses of embedding models: equal to sentence-transformers', and masked where judged relevant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses
from support.tiny_retriever import pairs

from ray_pipeline.train.retrieval.losses import LossConfig, batch_loss, masked_ranking_loss
from ray_pipeline.train.retrieval.pairs import pair_batch


def vectors(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 8, generator=generator, dtype=torch.float64).requires_grad_()


def test_without_masks_it_is_multiple_negatives_ranking_with_hard_negatives() -> None:
    queries, contexts = vectors(5, 1), vectors(10, 2)
    theirs = losses.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0)
    expected = theirs.compute_loss_from_embeddings(
        [queries, contexts[:5], contexts[5:]], torch.zeros(5)
    )
    unit = [torch.nn.functional.normalize(side, dim=-1) for side in (queries, contexts)]
    nothing = torch.zeros(5, 10, dtype=torch.bool)
    ours = masked_ranking_loss(unit[0], unit[1], torch.arange(5), nothing, 20.0)
    torch.testing.assert_close(ours, expected)


def test_a_context_that_is_judged_relevant_is_no_negative_and_gets_no_gradient() -> None:
    data = pairs()
    # Query 0 asks for contexts 0, 1, and partly 2. Its hard negative is 4.
    batch = pair_batch(data, np.array([0, 1, 2]))
    place = {text: number for number, text in enumerate(batch.contexts)}
    masked = batch.labels.masked[0]
    assert masked[place[data.contexts[1]]] and masked[place[data.contexts[2]]]
    assert not masked[place[data.contexts[0]]] and not masked[place[data.contexts[4]]]
    queries, contexts = vectors(3, 3), vectors(len(batch.contexts), 4)
    labels = batch.labels
    loss = masked_ranking_loss(queries[:1], contexts, labels.positive[:1], labels.masked[:1], 5.0)
    loss.backward()
    assert contexts.grad is not None
    for planted in (1, 2):
        assert not contexts.grad[place[data.contexts[planted]]].any()
    for real in (0, 4):
        assert contexts.grad[place[data.contexts[real]]].any()


def test_a_context_of_two_pairs_is_in_the_batch_once() -> None:
    data = pairs()
    batch = pair_batch(data, np.array([1, 9]))  # both have context 1
    assert len(set(batch.contexts)) == len(batch.contexts)
    assert batch.labels.positive.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["cosine-similarity", "cosent", "margin-mse"])
def test_the_other_losses_are_those_of_sentence_transformers(name: str) -> None:
    data = pairs()
    batch = pair_batch(data, np.arange(6))
    queries, contexts = vectors(6, 5), vectors(len(batch.contexts), 6)
    found = batch_loss(queries, contexts, batch.labels, LossConfig(name=name, margin=0.4))
    one, two = (torch.nn.functional.normalize(side, dim=-1) for side in (queries, contexts))
    labels = batch.labels
    cosines = (one[labels.pairs[:, 0]] * two[labels.pairs[:, 1]]).sum(dim=1)
    if name == "cosine-similarity":
        expected = ((cosines - labels.grades) ** 2).mean()
    elif name == "cosent":
        higher = labels.grades[:, None] > labels.grades[None, :]
        gaps = 20.0 * (cosines[None, :] - cosines[:, None])
        expected = torch.log1p(torch.exp(gaps[higher]).sum())
    else:
        places = labels.triplets
        margin = (one[places[:, 0]] * (two[places[:, 1]] - two[places[:, 2]])).sum(dim=1)
        expected = ((margin - 0.4 * labels.margins) ** 2).mean()
    torch.testing.assert_close(found, expected, check_dtype=False)


def test_matryoshka_adds_up_the_loss_at_its_sizes() -> None:
    batch = pair_batch(pairs(), np.arange(4))
    queries, contexts = vectors(4, 7), vectors(len(batch.contexts), 8)
    both = batch_loss(queries, contexts, batch.labels, LossConfig(matryoshka=(8, 3)))
    whole = batch_loss(queries, contexts, batch.labels, LossConfig())
    first = batch_loss(queries[:, :3], contexts[:, :3], batch.labels, LossConfig())
    torch.testing.assert_close(both, whole + first)


def test_an_epoch_has_every_pair_once_and_the_next_in_another_order() -> None:
    data = pairs()
    first = [number for batch in data.batches(4, 0, 7) for number in batch.tolist()]
    second = [number for batch in data.batches(4, 1, 7) for number in batch.tolist()]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert data.steps(4) == 3


def test_the_control_has_the_same_texts_in_other_pairs() -> None:
    data = pairs()
    control = data.shuffled(3)
    assert sorted(control.pairs[:, 1]) == sorted(data.pairs[:, 1])
    assert control.pairs[:, 0].tolist() == data.pairs[:, 0].tolist()
    assert (control.pairs[:, 1] != data.pairs[:, 1]).sum() >= 5
