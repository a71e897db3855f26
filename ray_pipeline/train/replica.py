"""How a rank holds the model that is trained: whole, or a shard of it (FSDP2).

Whole is the usual way: each rank has all weights, and gradients are summed over ranks. A model that
does not fit one device with its gradients and AdamW's moments (16 bytes a parameter) is sharded:
every rank has a part of each, and a layer's weights are gathered while it computes. Both give the
same losses and weights, and write the same checkpoints: a training may resume in the other way, or
with another number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch

from ray_pipeline.train.batches import Batch
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.losses import Answers, LossParts

#: Elements of gradients that are summed over ranks at once.
_BUCKET = 2**23
#: Sums a tensor over ranks, in place.
Sum = Callable[[torch.Tensor], torch.Tensor]
State = dict[str, Any]


class Replica(Protocol):
    """What the loop needs of the model on its rank."""

    #: The model, as its parameters are trained.
    model: Any
    #: Whether all ranks must run the same number of batches, because they compute each together.
    in_step: bool

    def loss(self, batch: Batch, compute: Callable[[Answers], LossParts]) -> LossParts:
        """Apply ``compute`` to the model's answers on a batch."""

    def sum_gradients(self, total: Sum) -> None:
        """Make each gradient the sum of those of all ranks."""

    def weights(self, copy: bool = False) -> State:
        """Trained parameters and buffers, unsharded and by name. Called on all ranks."""

    def load(self, weights: State) -> None:
        """Load weights that `weights` returned."""

    def moments(self, optimizer: torch.optim.Optimizer) -> State:
        """The optimizer's state, unsharded. Called on all ranks."""

    def load_moments(self, optimizer: torch.optim.Optimizer, state: State) -> None:
        """Load a state that `moments` returned into the optimizer."""

    def whole(self, build: Callable[[], Any]) -> Any:
        """The trained model, unsharded; ``build`` makes an untrained one. Called on all ranks."""


class Whole:
    """All weights on every rank.

    Args:
        model: of transformers or PEFT, on its device.
    """

    in_step = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.answers = AnswerModel(model)

    def loss(self, batch: Batch, compute: Callable[[Answers], LossParts]) -> LossParts:
        """See `Replica`."""
        return self.answers.loss(batch, compute)

    def sum_gradients(self, total: Sum) -> None:
        """Sum in buckets of some megabytes. A rank without rows contributes zeros."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        for bucket in _buckets(grads):
            flat = total(torch.cat([grad.reshape(-1) for grad in bucket]))
            for grad, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                grad.copy_(summed.view_as(grad))

    def weights(self, copy: bool = False) -> State:
        """See `Replica`; without ``copy``, they are the model's own memory."""
        weights = _trained(self.model)
        return {name: value.cpu().clone() for name, value in weights} if copy else dict(weights)

    def load(self, weights: State) -> None:
        """See `Replica`."""
        self.model.load_state_dict(weights, strict=False)

    def moments(self, optimizer: torch.optim.Optimizer) -> State:
        """See `Replica`."""
        return optimizer.state_dict()

    def load_moments(self, optimizer: torch.optim.Optimizer, state: State) -> None:
        """See `Replica`."""
        optimizer.load_state_dict(state)

    def whole(self, build: Callable[[], Any]) -> Any:
        """The model itself."""
        return self.model


class Sharded:
    """A shard of each weight on every rank, by torch's ``fully_shard`` on each decoder layer.

    Args:
        model: of transformers or PEFT, on the CPU. Its parameters are moved to the device layer by
            layer and sharded there, so that the device never holds the whole model.
        device: of this rank, as torch names it. The default process group has been made.
    """

    in_step = True

    def __init__(self, model: Any, device: str) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        kind = torch.device(device).type
        mesh = init_device_mesh(kind, (torch.distributed.get_world_size(),))
        self.model = model
        self._root = _Answering(model)  # runs the model once, so it comes before sharding
        for module in [*_layers(model), self._root]:
            shards = fully_shard(module, mesh=mesh)
            # Losses are divided by the answer tokens of all ranks: sum gradients, don't average.
            shards.set_force_sum_reduction_for_comms(True)
            shards.set_gradient_divide_factor(1.0)

    def loss(self, batch: Batch, compute: Callable[[Answers], LossParts]) -> LossParts:
        """See `Replica`."""
        loss, cross_entropy, kl = self._root(batch, compute)
        if not torch.is_grad_enabled():
            self._root.reshard()  # as a backward pass would
        return LossParts(loss, cross_entropy, kl, int(batch.predicted.sum()))

    def sum_gradients(self, total: Sum) -> None:
        """No-op: FSDP has already summed the gradients."""

    def weights(self, copy: bool = False) -> State:
        """See `Replica`; gathered one by one, on the CPU."""
        return {name: _gathered(value) for name, value in _trained(self.model)}

    def load(self, weights: State) -> None:
        """See `Replica`."""
        own = self.model.state_dict()
        parts = {name: _part(value, own[name]) for name, value in weights.items()}
        self.model.load_state_dict(parts, strict=False)

    def moments(self, optimizer: torch.optim.Optimizer) -> State:
        """See `Replica`."""
        state = optimizer.state_dict()
        gathered = {
            number: {name: _gathered(value) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": gathered}

    def load_moments(self, optimizer: torch.optim.Optimizer, state: State) -> None:
        """See `Replica`."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        parts = {
            number: {name: _part(value, parameters[number]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": parts})

    def whole(self, build: Callable[[], Any]) -> Any:
        """A new model with the weights of all ranks, on rank 0; None on the other ranks."""
        weights = {name: _gathered(value) for name, value in self.model.state_dict().items()}
        if torch.distributed.get_rank() != 0:
            return None
        model = build()
        model.load_state_dict(weights)
        return model


class _Answering(torch.nn.Module):
    """Model and loss as one module, so that weights stay gathered while the loss is computed."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._answers = AnswerModel(model)

    def forward(
        self, batch: Batch, compute: Callable[[Answers], LossParts]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = compute(self._answers(batch))
        return parts.loss, parts.cross_entropy, parts.kl


def _layers(model: Any) -> list[torch.nn.Module]:
    """The decoder layers; none if the model has no list of them: then it is sharded as one."""
    number = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == number:
            return list(module)
    return []


def _trained(model: Any) -> list[tuple[str, torch.Tensor]]:
    """Parameters with a gradient, and buffers, by name."""
    every = model.named_parameters(remove_duplicate=False)
    wanted = {name for name, p in every if p.requires_grad} | {n for n, _ in model.named_buffers()}
    # The state has more entries than these, such as the scales of 4-bit weights.
    return [(name, value) for name, value in model.state_dict().items() if name in wanted]


def _gathered(value: Any) -> Any:
    """A tensor unsharded and on the CPU; other values as they are."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu() if isinstance(value, torch.Tensor) else value


def _part(value: Any, like: torch.Tensor) -> Any:
    """This rank's shard of a tensor, sharded like another tensor of its shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not (isinstance(like, DTensor) and isinstance(value, torch.Tensor)):
        return value
    if value.shape != like.shape:  # the optimizer's count of steps
        return value
    whole = value.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _buckets(grads: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Gradients in order, of one type a bucket, about `_BUCKET` elements each."""
    bucket: list[torch.Tensor] = []
    for grad in grads:
        if bucket and (grad.dtype != bucket[0].dtype or sum(g.numel() for g in bucket) >= _BUCKET):
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket
