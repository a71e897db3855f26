"""Fine-tuning: gradients however a batch is cut, two workers, resume, early stopping."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_retriever import job, pairs, tiny_retriever, weights

from ray_pipeline.train.job import WorkersConfig
from ray_pipeline.train.launch import run_retriever_training
from ray_pipeline.train.loop import World
from ray_pipeline.train.retrieval.job import Tuning, _load, train_retriever


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_retriever(tmp_path_factory.mktemp("tiny"))


def gradients(tuning: Tuning, numbers: Any) -> tuple[float, list[torch.Tensor]]:
    loss = tuning.gradients(numbers, 0)
    return loss, [parameter.grad.clone() for parameter in tuning._parameters]


def test_a_batch_that_is_encoded_in_parts_has_the_same_gradient(base: str, tmp_path: Path) -> None:
    numbers = np.arange(8)
    made = []
    for size in (None, 3):
        one = job(base, tmp_path, mini_batch_texts=size)
        made.append(gradients(Tuning(one, _load(one, "cpu"), World(), "cpu"), numbers))
    assert made[0][0] == pytest.approx(made[1][0], rel=1e-5)
    for one, other in zip(made[0][1], made[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_parts_have_the_dropout_of_the_first_pass(tmp_path: Path) -> None:
    # With other random numbers in the second pass, the gradient of a loss that is flat in a
    # direction would not vanish; here both passes of one seed must give one gradient.
    base = tiny_retriever(tmp_path, dropout=0.5)
    one = job(base, tmp_path, mini_batch_texts=2)
    tuning = Tuning(one, _load(one, "cpu"), World(), "cpu")
    tuning._model.train()
    seen: list[torch.Tensor] = []
    forward = tuning.forward

    def spied(texts: Any) -> torch.Tensor:
        found = forward(texts)
        seen.append(found.detach())
        return found

    tuning.forward = spied  # type: ignore[method-assign]
    tuning.gradients(np.arange(4), 0)
    half = len(seen) // 2
    assert half > 2
    for first, again in zip(seen[:half], seen[half:], strict=True):
        torch.testing.assert_close(first, again)


class _Sum:
    """Sums tensors of several threads in place, like the ranks of a process group."""

    def __init__(self, size: int) -> None:
        self._barrier, self._parts = threading.Barrier(size, timeout=60), [None] * size

    def of(self, rank: int) -> Any:
        def all_reduce(tensor: torch.Tensor) -> None:
            self._parts[rank] = tensor.clone()  # type: ignore[call-overload]
            self._barrier.wait()
            total = sum(part for part in self._parts)  # type: ignore[misc]
            self._barrier.wait()
            tensor.copy_(total)

        return all_reduce


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("number", [8, 1])  # one pair: the second rank has no query to encode
def test_two_ranks_sum_up_to_the_gradient_of_one(
    base: str, tmp_path: Path, size: int | None, number: int
) -> None:
    one = job(base, tmp_path, mini_batch_texts=size)
    loss, expected = gradients(Tuning(one, _load(one, "cpu"), World(), "cpu"), np.arange(number))
    shared = _Sum(2)
    tunings = [
        Tuning(one, _load(one, "cpu"), World(rank, 2, shared.of(rank)), "cpu") for rank in range(2)
    ]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda rank: found.update({rank: gradients(tunings[rank], np.arange(number))}),
            args=(rank,),
        )
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(2):
        assert found[rank][0] == pytest.approx(loss, rel=1e-5)
        for ours, theirs in zip(found[rank][1], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    seen = [number for tuning in tunings for number in tuning.encoded]
    assert sorted(seen) == list(range(number))


def test_a_killed_training_ends_as_an_undisturbed_one(base: str, tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    train_retriever(job(base, calm), World(), "cpu", lambda line: None)
    calls = []

    def dies_in_the_second_epoch(encode: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return job(base, killed).validate(encode)

    with pytest.raises(KeyboardInterrupt):
        train_retriever(
            job(base, killed, dies_in_the_second_epoch), World(), "cpu", lambda line: None
        )
    assert not (killed / "models").exists()
    said: list[str] = []
    train_retriever(job(base, killed), World(), "cpu", said.append)
    assert [line.split(":")[0].strip() for line in said] == ["epoch 2"]
    for name, value in weights(calm).items():
        torch.testing.assert_close(weights(killed)[name], value)
    assert job(base, killed).finished()["pairs_seen"] == 2 * len(pairs().pairs)


def test_the_best_epoch_is_kept_and_patience_ends_the_training(base: str, tmp_path: Path) -> None:
    figures = iter([0.1, 0.9, 0.5, 0.4, 0.3])
    one = job(base, tmp_path, lambda encode: {"figure": next(figures)}, epochs=9, patience=2)
    train_retriever(one, World(), "cpu", lambda line: None)
    result = one.finished()
    assert result is not None
    assert (result["best_epoch"], result["epochs"], result["stopped"]) == (1, 3, "patience")
    figures = iter([0.1, 0.9])
    shorter = tmp_path / "shorter"
    # The rate of the first epoch is that of the whole schedule: the same 9 epochs, cut by patience.
    again = job(base, shorter, lambda encode: {"figure": next(figures, 0.0)}, epochs=9, patience=2)
    train_retriever(again, World(), "cpu", lambda line: None)
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(weights(shorter)[name], value)
    card = (tmp_path / "models/retriever-1/README.md").read_text()
    assert "best_epoch: 1" in card


def test_two_workers_of_ray_train_give_the_model_of_one(
    ray_cluster: str, base: str, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder, number in ((alone, 1), (both, 2)):
        one = job(base, folder)
        workers = WorkersConfig(number=number, cpus=0.5)
        result = run_retriever_training(one, workers, lambda line: None)
        assert result["pairs_seen"] == 2 * len(pairs().pairs)
        # Nothing is trained again.
        assert run_retriever_training(one, workers, lambda line: None) == result
    # Not the weights: the gradient of a bias of keys is only rounding, and AdamW scales it up.
    vectors = [
        SentenceTransformer(str(folder / "models/retriever-1"), device="cpu").encode(
            list(pairs().contexts), normalize_embeddings=True
        )
        for folder in (alone, both)
    ]
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.999
