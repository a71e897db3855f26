"""Losses on answer tokens: cross-entropy, and distillation α·CE + β·T²·KL(teacher ‖ student).

After Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network": T² keeps the
gradient of the KL term of the same size for any temperature T. In this module

- logits are shifted first and masked after: what arrives are the answer positions only, so prompts
  and padding can have no effect;
- sums are divided by a number that the caller gives: the answer tokens of the whole effective batch
  (all micro-batches of an accumulation, on all ranks). Then a loss does not depend on how the batch
  was split (trl#4719, ms-swift#10165);
- logits exist for a chunk of answer positions at a time, never for all of them: a chunk is
  projected, its loss computed, and its gradient takes the place of its logits. The next chunk is
  written to the same memory. The backward pass needs no second projection either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.tokenizer import check_vocabulary

#: Elements of a chunk's logits: 32 MiB of float32 on a CPU, 512 MiB on a GPU.
_CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**27}
#: Elements whose loss is computed at once: those of a CPU fit its cache, which makes the loss twice
#: as fast (benchmarks/loss_speed.py); a GPU takes the chunk.
_BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**27}


@dataclass(frozen=True)
class Objective:
    """``α·CE + β·T²·KL(teacher ‖ student)``; without a teacher, ``α = 1`` and ``β = 0``."""

    alpha: float = 1.0
    beta: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.temperature <= 0:
            raise UserError(f"temperature must be above 0, and is {self.temperature}")
        if self.alpha < 0 or self.beta < 0 or self.alpha + self.beta == 0:
            raise UserError(
                f"alpha and beta must be 0 or more and not both 0; they are {self.alpha} and "
                f"{self.beta}"
            )


@dataclass(frozen=True)
class Answers:
    """A student at the answer positions of a micro-batch.

    Attributes:
        states: hidden states [answers, hidden] that ``weight`` [vocabulary, hidden] and ``bias``
            [vocabulary] project to logits; or the logits themselves, with ``weight`` None.
        targets: the answer tokens, int64 [answers].
    """

    states: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def vocabulary(self) -> int:
        """Logits of a position."""
        return self.states.shape[1] if self.weight is None else self.weight.shape[0]

    def detached(self) -> Answers:
        """The same without gradients."""
        weight = None if self.weight is None else self.weight.detach()
        bias = None if self.bias is None else self.bias.detach()
        return Answers(self.states.detach(), self.targets, weight, bias)


@dataclass(frozen=True)
class LossParts:
    """A micro-batch's part of a step's loss.

    Attributes:
        loss: scalar, with a gradient; the parts of all micro-batches and ranks add up to the loss.
        cross_entropy: sum over the answer tokens, in nats, not divided and not weighted.
        kl: sum over the answer tokens, in nats, at the objective's temperature and without T² and
            β; 0 without a teacher.
        tokens: answer tokens.
    """

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    kl: torch.Tensor
    tokens: int


@dataclass(frozen=True)
class OnlineSignal:
    """A teacher that was run on the same micro-batch. Its logits are computed chunk by chunk, too.

    Attributes:
        answers: the teacher at the answer positions.
        vocabulary: number of tokens, from the first, that teacher and student share (see
            `shared_vocabulary`). Both distributions are cut to them before the softmax.
    """

    answers: Answers
    vocabulary: int

    @torch.no_grad()
    def _logits(self, part: slice) -> torch.Tensor:
        states, weight, bias = self.answers.states, self.answers.weight, self.answers.bias
        if weight is None:
            return _exact(states[part, : self.vocabulary])
        cut_bias = None if bias is None else bias[: self.vocabulary]
        return _exact(F.linear(states[part], weight[: self.vocabulary], cut_bias))

    def kl(self, logits: torch.Tensor, part: slice, temperature: float) -> torch.Tensor:
        """Sum over positions of KL(teacher ‖ student) at ``temperature``, in nats.

        Args:
            logits: the student's, [positions of part, vocabulary], float32 or float64.
            part: which answer positions of the micro-batch these are.
            temperature: divides the logits of student and teacher.
        """
        student = F.log_softmax(logits[:, : self.vocabulary] / temperature, dim=-1)
        teacher = F.log_softmax(self._logits(part).to(student.dtype) / temperature, dim=-1)
        return F.kl_div(student, teacher, log_target=True, reduction="sum")


@dataclass(frozen=True)
class CachedSignal:
    """A teacher's k most likely tokens at each answer position, and the mass of all others.

    The distribution over the vocabulary becomes one over k + 1 outcomes: the k tokens, and a bucket
    for the tail. The student's is reduced to the same outcomes, both are tempered as if these were
    all there are (``q_i^(1/T)``, normalised), and KL is taken between them. So it is 0 where the
    two agree, equal to the dense KL for k = vocabulary at any T, and for T = 1 never above the
    dense one (grouping outcomes can only lower a KL divergence: Cover and Thomas, 2.7). At other
    temperatures the bucket is tempered as one outcome: how the teacher's tail is distributed is
    not known. Dropping the tail instead, or renormalising without it, would teach the student to
    be surer than its teacher.

    Attributes:
        ids: int64 [answers, k].
        log_probs: natural log-probabilities of those at T = 1, [answers, k].
        tail: probability of all other tokens, [answers].
        vocabulary: tokens that the teacher's softmax ran over.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    tail: torch.Tensor
    vocabulary: int

    def compare(
        self, log_student: torch.Tensor, part: slice, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """KL over the outcomes, and the difference of the tempered distributions.

        Args:
            log_student: log-probabilities of the outcomes at T = 1: [positions, k + 1] with the
                tail last; [positions, k] where k is the vocabulary.
            part: which answer positions these are.
            temperature: of the student's and the teacher's distribution.

        Returns:
            KL(teacher ‖ student) summed over positions, in nats; student − teacher, tempered
            probabilities in the shape of ``log_student``, which is T times the KL's gradient.
        """
        log_teacher = self.log_probs[part].to(log_student.dtype)
        if log_student.shape[1] > log_teacher.shape[1]:
            tail = self.tail[part].to(log_student.dtype).log().unsqueeze(1)
            log_teacher = torch.cat([log_teacher, tail], dim=1)
        student = F.log_softmax(log_student / temperature, dim=1)
        teacher = F.log_softmax(log_teacher / temperature, dim=1)
        terms = teacher.exp() * (teacher - student)
        kl = torch.where(teacher.isneginf(), 0, terms).sum()  # 0 log 0 = 0
        return kl, student.exp() - teacher.exp()


#: A teacher's distributions at the answer tokens of a micro-batch, in the order of its targets.
TeacherSignal = OnlineSignal | CachedSignal


@torch.no_grad()
def top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k most likely tokens and the mass of the others, at T = 1.

    Args:
        logits: [positions, vocabulary].
        k: at most the vocabulary.

    Returns:
        ids int64 [positions, k], log-probabilities [positions, k], tail mass [positions].
    """
    log_probs = F.log_softmax(_exact(logits), dim=-1)
    best = log_probs.topk(k, dim=-1)
    # Summed, not 1 - sum: a tail of 1e-9 would be lost in float32's rounding.
    tail = log_probs.exp().scatter(1, best.indices, 0).sum(1)
    return best.indices, best.values, tail


def answer_loss(
    answers: Answers,
    objective: Objective,
    normaliser: float,
    teacher: TeacherSignal | None = None,
    chunk: int | None = None,
) -> LossParts:
    """A micro-batch's part of ``(α·ΣCE + β·T²·ΣKL) / normaliser``.

    Args:
        answers: the student at the answer positions.
        objective: the weights.
        normaliser: answer tokens of the whole effective batch, of all its micro-batches and ranks.
        teacher: needed where ``objective.beta`` is above 0.
        chunk: answer positions whose logits exist at once; None: those that fit 32 MiB on a CPU,
            512 MiB on a GPU.

    Returns:
        The loss and its parts; all 0, with a gradient of 0, where there is no answer token.

    Raises:
        UserError: the objective needs a teacher and there is none.
    """
    if objective.beta > 0 and teacher is None:
        raise UserError(f"beta is {objective.beta}, and there is no teacher: set it to 0")

    chunk = chunk or positions_at_once(answers)
    block = min(chunk, _positions(_BLOCK_ELEMENTS, answers, at_least=1))
    if objective.beta == 0:
        teacher = None
    setup = _Setup(answers.targets, teacher, objective, max(normaliser, 1), chunk, block)
    if not torch.is_grad_enabled():  # an autograd Function cannot see this itself
        answers = answers.detached()
    loss, ce, kl = _Chunked.apply(answers.states, answers.weight, answers.bias, setup)
    return LossParts(loss, ce, kl, len(answers.targets))


def positions_at_once(answers: Answers) -> int:
    """Answer positions whose logits may exist at once: 32 MiB of logits on a CPU, 512 on a GPU."""
    return _positions(_CHUNK_ELEMENTS, answers, at_least=16)


def _positions(elements: Mapping[str, int], answers: Answers, at_least: int) -> int:
    """Answer positions whose logits fit the device's budget of elements, at least ``at_least``."""
    kind = answers.states.device.type
    return max(at_least, elements.get(kind, elements["cpu"]) // answers.vocabulary)


#: Cross-entropy and KL of a block, summed, and the gradient of its loss where wanted.
_Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class _Setup:
    """How `_Chunked` computes the loss of each chunk of logits, block by block."""

    targets: torch.Tensor
    teacher: TeacherSignal | None
    objective: Objective
    normaliser: float
    chunk: int
    block: int

    @property
    def ce_weight(self) -> float:
        return self.objective.alpha / self.normaliser

    @property
    def kl_weight(self) -> float:
        return self.objective.beta * self.objective.temperature**2 / self.normaliser

    def __call__(self, logits: torch.Tensor, part: slice, gradient: bool) -> _Part:
        """A block's sums and gradient; overwrites the logits."""
        if isinstance(self.teacher, OnlineSignal):
            return self._differentiated(self.teacher, logits, part, gradient)
        return self._closed_form(self.teacher, logits, part, gradient)

    def _differentiated(
        self, teacher: OnlineSignal, logits: torch.Tensor, part: slice, gradient: bool
    ) -> _Part:
        with torch.set_grad_enabled(gradient):
            logits = logits.detach().requires_grad_(gradient)
            ce = F.cross_entropy(logits, self.targets[part], reduction="sum")
            kl = teacher.kl(logits, part, self.objective.temperature)
            loss = self.ce_weight * ce + self.kl_weight * kl
        grad = torch.autograd.grad(loss, logits)[0] if gradient else None
        return ce.detach(), kl.detach(), grad

    def _closed_form(
        self, teacher: CachedSignal | None, logits: torch.Tensor, part: slice, gradient: bool
    ) -> _Part:
        """With s = softmax(z): ∂CE/∂z = s − one-hot of the target. With a and q the tempered
        distributions of student and teacher over the outcomes, and r the student's mass of the
        tail: ∂KL/∂z = (a − q) / T for a kept token, s/r · (a_tail − q_tail) / T for one of the
        tail. So one softmax, in place, gives both gradients: a cached teacher costs almost nothing.
        """
        targets = self.targets[part].unsqueeze(1)
        norm = logits.logsumexp(1, keepdim=True)
        ce = (norm - logits.gather(1, targets)).sum()
        kl = torch.zeros_like(ce)
        if teacher is None:
            grad = logits.sub_(norm).exp_().mul_(self.ce_weight) if gradient else None
        else:
            kl, grad = self._grouped(teacher, logits, norm, part)
        if gradient and grad is not None:
            one_hot = torch.full_like(targets, 1, dtype=grad.dtype)
            grad.scatter_add_(1, targets, one_hot * -self.ce_weight)
        return ce, kl, grad

    def _grouped(
        self, teacher: CachedSignal, logits: torch.Tensor, norm: torch.Tensor, part: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of KL, and the gradient without the target's one-hot."""
        ids, temperature = teacher.ids[part], self.objective.temperature
        outcomes = logits.gather(1, ids) - norm
        kept = outcomes.exp()
        probs = logits.sub_(norm).exp_()
        rest = probs[:, : teacher.vocabulary].scatter_(1, ids, 0)
        has_tail = ids.shape[1] < teacher.vocabulary
        if has_tail:  # below 1e-30 the tail is 0, and must not be divided by
            mass = rest.sum(1, keepdim=True).clamp(min=1e-30)
            outcomes = torch.cat([outcomes, mass.log()], dim=1)
        kl, differ = teacher.compare(outcomes, part, temperature)
        push = self.kl_weight / temperature * differ
        factor = self.ce_weight + push[:, -1:] / mass if has_tail else self.ce_weight
        rest.mul_(factor)
        probs[:, teacher.vocabulary :].mul_(self.ce_weight)
        probs.scatter_(1, ids, self.ce_weight * kept + push[:, : ids.shape[1]])
        return kl, probs


def _project(
    states: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, out: torch.Tensor
) -> torch.Tensor:
    """The logits, in memory that is there already: on a CPU, to get it anew costs as much."""
    if weight is None:
        return out.copy_(states)
    if bias is None:
        return torch.mm(states, weight.t(), out=out)
    return torch.addmm(bias, states, weight.t(), out=out)


def _to_gradient(logits: torch.Tensor, first: int, setup: _Setup, gradient: bool) -> torch.Tensor:
    """A chunk's loss, cross-entropy and KL, summed; its logits become their gradient if wanted.

    Args:
        logits: of the positions from ``first`` on, [positions of the chunk, vocabulary].
        first: position in the micro-batch.
        setup: what is computed.
        gradient: whether it is wanted.
    """
    sums = torch.zeros(3, dtype=_exact(logits[:0]).dtype, device=logits.device)
    for start in range(0, len(logits), setup.block):
        block = logits[start : start + setup.block]
        part = slice(first + start, first + start + len(block))
        exact = _exact(block)
        ce, kl, grad = setup(exact, part, gradient)
        sums += torch.stack([setup.ce_weight * ce + setup.kl_weight * kl, ce, kl])
        if grad is not None and grad.data_ptr() != block.data_ptr():
            block.copy_(grad)
    return sums


class _Chunked(torch.autograd.Function):
    """Projection and loss, chunk by chunk, with the gradients computed on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        setup: _Setup,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        grads = _Gradients.wanted(ctx.needs_input_grad, states, weight, bias)
        compute = _compute_dtype(states)
        cast = None if weight is None else weight.to(compute)
        cast_bias = None if bias is None else bias.to(compute)
        sums = torch.zeros(3, dtype=_exact(states[:0]).dtype, device=states.device)
        width = states.shape[1] if weight is None else len(weight)
        memory = states.new_empty((min(setup.chunk, len(states)), width), dtype=compute)
        for start in range(0, len(states), setup.chunk):
            part = slice(start, min(start + setup.chunk, len(states)))
            inputs = states[part] if cast is None else states[part].to(compute)
            logits = _project(inputs, cast, cast_bias, memory[: len(inputs)])
            sums += _to_gradient(logits, start, setup, grads.any)
            if grads.any:
                grads.add(part, logits, inputs, cast)
        ctx.grads = grads
        ctx.mark_non_differentiable(sums[1], sums[2])
        return sums[0].clone(), sums[1].clone(), sums[2].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[Any, ...]:
        grads, scale = ctx.grads, grad_outputs[0]
        scaled = [None if grad is None else grad * scale for grad in grads.of_inputs()]
        return (*scaled, None)


@dataclass
class _Gradients:
    """The gradients of the inputs of `_Chunked`; None where not wanted."""

    states: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    @classmethod
    def wanted(
        cls,
        needed: tuple[bool, ...],
        states: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> _Gradients:
        inputs = (states, weight, bias)
        return cls(
            *(
                torch.zeros_like(tensor) if need and tensor is not None else None
                for tensor, need in zip(inputs, needed[:3], strict=True)
            )
        )

    @property
    def any(self) -> bool:
        return any(grad is not None for grad in self.of_inputs())

    def of_inputs(self) -> tuple[torch.Tensor | None, ...]:
        return self.states, self.weight, self.bias

    def add(
        self, part: slice, grad: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor | None
    ) -> None:
        """Add a chunk's gradients; ``grad`` is that of its logits [positions, vocabulary]."""
        if self.states is not None:
            self.states[part] = grad if weight is None else grad @ weight
        if self.weight is not None:
            if self.weight.dtype == grad.dtype:
                self.weight.addmm_(grad.t(), inputs)
            else:
                self.weight += grad.t() @ inputs
        if self.bias is not None:
            self.bias += grad.sum(0)


def _exact(logits: torch.Tensor) -> torch.Tensor:
    """The logits in at least float32: 16 bits are too few for a softmax over a vocabulary."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _compute_dtype(states: torch.Tensor) -> torch.dtype:
    kind = states.device.type
    autocast = torch.is_autocast_enabled(kind) and states.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if autocast else states.dtype


def shared_vocabulary(student: int, teacher: int, tokens: int) -> int:
    """The number of tokens, from the first, on which a student and a teacher are compared.

    Models are often padded to a round number of logits (Qwen: 152,064 and 151,936 for one
    tokenizer). Logits beyond the tokenizer's tokens have no meaning, so both models are cut to the
    tokens before the softmax.

    Args:
        student: logits of the student.
        teacher: logits of the teacher.
        tokens: the largest token id of their tokenizer, plus one.

    Raises:
        UserError: a model has fewer logits than there are tokens.
    """
    fix = "they do not belong together. Student and teacher need one tokenizer."
    check_vocabulary("student", student, tokens, fix)
    check_vocabulary("teacher", teacher, tokens, fix)
    return tokens
