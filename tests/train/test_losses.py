"""The invariants of losses, against a naive reference in float64.

Letters are those of the list that the project keeps of what other tools got wrong: (a) student is
teacher, (b) plain cross-entropy, (c) splits and accumulation (ranks: test_ranks), (d) prompts and
padding, (e) numeric gradients, (f) vocabularies of two sizes, (g) rows without an answer, (h) the
end of text as padding, (i) chunks, (j) top-k with k = V, (k) the teacher stays as it was,
(l) packed rows.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from support.naive_losses import gradients, naive_loss, norm
from support.tiny_models import VOCABULARY, tiny_model, token_table

from ray_pipeline.core.errors import UserError
from ray_pipeline.train.batches import TokenRows
from ray_pipeline.train.forward import AnswerModel, OnlineTeacher
from ray_pipeline.train.losses import (
    Answers,
    CachedSignal,
    Objective,
    OnlineSignal,
    answer_loss,
    shared_vocabulary,
    top_k,
)

KINDS = ["gpt2", "llama"]
MIX = Objective(alpha=0.4664, beta=0.2081, temperature=0.7)
ROWS = 12
EXACT = {"rtol": 1e-10, "atol": 1e-12}


class CachingTeacher:
    """A teacher whose answers go through top-k, as a cache's do, in full precision."""

    def __init__(self, model, k: int, vocabulary: int = VOCABULARY) -> None:
        self.model, self.k, self.vocabulary = AnswerModel(model.eval()), k, vocabulary

    @torch.no_grad()
    def __call__(self, batch) -> CachedSignal:
        told = self.model(batch)
        logits = told.states if told.weight is None else told.states @ told.weight.t()
        return CachedSignal(*top_k(logits[:, : self.vocabulary], self.k), self.vocabulary)


def computed(
    model, rows: TokenRows, split: list[list[int]], objective=MIX, teacher=None, layout="right",
    chunk: int | None = None, pad: int = 0, whole: bool = False,
) -> tuple[float, dict[str, torch.Tensor]]:  # fmt: skip
    """Loss and gradients of one step whose rows are split into these micro-batches."""
    model.zero_grad()
    student = AnswerModel(model)
    if whole:
        student._parts = None
    tokens = sum(int(rows.answer_tokens[one].sum()) for one in split)
    total = 0.0
    for one in split:
        batch = rows.batch(one, layout, pad)
        signal = teacher(batch) if teacher is not None else None
        parts = answer_loss(student(batch), objective, tokens, signal, chunk)
        parts.loss.backward()
        total += parts.loss.item()
    return total, gradients(model)


def naive(model, rows: TokenRows, **objective) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    listed = [(rows.ids(i).tolist(), rows.mask(i).tolist()) for i in range(len(rows))]
    loss = naive_loss(model, listed, **objective)
    loss.backward()
    return loss.item(), gradients(model)


def same(one, other, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    assert one[0] == pytest.approx(other[0], rel=rtol, abs=atol)
    assert norm(one[1]) == pytest.approx(norm(other[1]), rel=rtol, abs=atol)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def rows() -> TokenRows:
    return TokenRows(token_table(ROWS))


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


SPLITS = {
    "whole": [list(range(ROWS))],
    "fours": [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]],
    "ones": [[i] for i in range(ROWS)],
    "uneven": [[11, 3, 5, 0, 8, 9, 1], [2], [4, 6, 7, 10]],
}


@pytest.mark.parametrize("told", ["alone", "online", "top-5", "top-V"])
def test_c_splits_d_padding_i_chunks_l_packing_against_the_definition(kind, told, rows) -> None:
    student, teacher = tiny_model(kind, seed=1), tiny_model(kind, seed=2)
    signal = {
        "alone": None,
        "online": OnlineTeacher(teacher, VOCABULARY),
        "top-5": CachingTeacher(teacher, 5),
        "top-V": CachingTeacher(teacher, VOCABULARY),
    }[told]
    objective = Objective() if signal is None else MIX
    expected = naive(
        student, rows, alpha=objective.alpha, beta=objective.beta,
        temperature=objective.temperature, teacher=None if signal is None else teacher,
        k=5 if told == "top-5" else None,
    )  # fmt: skip
    for split in SPLITS.values():
        for layout in ("right", "left", "packed"):
            same(computed(student, rows, split, objective, signal, layout), expected)
    for chunk in (1, 7, 10_000):
        same(computed(student, rows, SPLITS["fours"], objective, signal, chunk=chunk), expected)
    same(computed(student, rows, SPLITS["whole"], objective, signal, whole=True), expected)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("told", ["online", "top-5", "top-V"])
def test_a_student_that_is_the_teacher_learns_nothing(kind, told, temperature, rows) -> None:
    model = tiny_model(kind)
    teacher = copy.deepcopy(model)
    k = {"online": None, "top-5": 5, "top-V": VOCABULARY}[told]
    signal = OnlineTeacher(teacher, VOCABULARY) if k is None else CachingTeacher(teacher, k)
    objective = Objective(alpha=0, beta=1, temperature=temperature)
    loss, grads = computed(model, rows, SPLITS["fours"], objective, signal)
    assert abs(loss) < 1e-12 and norm(grads) < 1e-12


def test_b_without_a_teacher_it_is_the_loss_of_transformers(kind, rows) -> None:
    model = tiny_model(kind).float()
    batch = rows.batch(range(ROWS))
    labels = batch.input_ids.masked_fill(~batch.answer_mask, -100)
    theirs = model(**batch.inputs(), labels=labels, num_items_in_batch=len(batch.targets)).loss
    theirs.backward()
    expected = gradients(model)
    # On the same logits; and in chunks, projected at answers only. Sums differ by their order.
    model.zero_grad()
    student = AnswerModel(model)
    student._parts = None
    loss = answer_loss(student(batch), Objective(), len(batch.targets)).loss
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    same(
        computed(model, rows, SPLITS["whole"], Objective(), chunk=9),
        (theirs.item(), expected),
        rtol=1e-4,
        atol=1e-6,
    )


def test_d_what_fills_a_batch_up_and_prompt_logits_have_no_effect(rows) -> None:
    student = tiny_model("llama", seed=1)
    teacher = OnlineTeacher(tiny_model("llama", seed=2), VOCABULARY)
    expected = computed(student, rows, SPLITS["fours"], teacher=teacher)
    for layout in ("right", "left"):
        same(computed(student, rows, SPLITS["fours"], MIX, teacher, layout, pad=66), expected)
    batch = rows.batch(range(4))
    logits = student(**batch.inputs()).logits.detach().requires_grad_()
    answers = Answers(logits[:, :-1][batch.predicted], batch.targets)
    answer_loss(answers, MIX, 1, teacher(batch)).loss.backward()
    touched = logits.grad.abs().sum(-1) > 0
    assert torch.equal(touched[:, :-1], batch.predicted) and not touched[:, -1].any()


@pytest.mark.parametrize("temperature", [0.7, 2.0])
@pytest.mark.parametrize("k", [None, 5, VOCABULARY])
def test_e_the_gradient_is_that_of_the_loss_that_is_told(kind, k, temperature) -> None:
    """Central differences of the reported loss, at T ≠ 1 (axolotl's T² came after backward)."""
    few = TokenRows(token_table(3))
    student, teacher = tiny_model(kind, seed=1), tiny_model(kind, seed=2)
    signal = OnlineTeacher(teacher, VOCABULARY) if k is None else CachingTeacher(teacher, k)
    objective = Objective(0.4, 0.6, temperature)
    _, grads = computed(student, few, [[0, 1], [2]], objective, signal)
    random = torch.Generator().manual_seed(0)
    for name, parameter in student.named_parameters():
        direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
            losses.append(computed(student, few, [[0, 1], [2]], objective, signal)[0])
            with torch.no_grad():
                parameter -= sign * 1e-5 * direction
        numeric = (losses[0] - losses[1]) / 2e-5
        assert numeric == pytest.approx(float((grads[name] * direction).sum()), rel=1e-5, abs=1e-8)


def test_f_logits_beyond_the_tokenizer_are_cut_before_the_softmax(kind, rows) -> None:
    student = tiny_model(kind, vocabulary=VOCABULARY + 5, seed=1)
    teacher = tiny_model(kind, vocabulary=VOCABULARY + 13, seed=2)
    shared = shared_vocabulary(VOCABULARY + 5, VOCABULARY + 13, VOCABULARY)
    assert shared == VOCABULARY
    expected = naive(
        student, rows, alpha=MIX.alpha, beta=MIX.beta, temperature=MIX.temperature,
        teacher=teacher, vocabulary=VOCABULARY,
    )  # fmt: skip
    online, cached = OnlineTeacher(teacher, shared), CachingTeacher(teacher, shared, shared)
    for signal in (online, cached):
        same(computed(student, rows, SPLITS["fours"], MIX, signal), expected)
    with pytest.raises(UserError, match="teacher has 60 logits and the tokenizer 67"):
        shared_vocabulary(VOCABULARY, 60, VOCABULARY)


def test_g_rows_without_an_answer_give_a_finite_loss(kind) -> None:
    table = token_table(4)
    empty = [[False] * len(one) for one in table["input_ids"].to_pylist()]
    silent = TokenRows(table.set_column(2, "answer_mask", [empty]))
    student = tiny_model(kind, seed=1)
    for teacher in (None, OnlineTeacher(tiny_model(kind, seed=2), VOCABULARY)):
        objective = Objective() if teacher is None else MIX
        loss, grads = computed(student, silent, [[0, 1], [2, 3]], objective, teacher)
        assert loss == 0 and norm(grads) == 0


def test_g_a_silent_row_beside_others_changes_nothing(kind, rows) -> None:
    table = token_table(ROWS)
    masks = table["answer_mask"].to_pylist()
    masks[-1] = [False] * len(masks[-1])
    with_silent = TokenRows(table.set_column(2, "answer_mask", [masks]))
    student = tiny_model(kind, seed=1)
    others = [list(range(ROWS - 1))]
    same(
        computed(student, with_silent, SPLITS["fours"], Objective()),
        computed(student, rows, others, Objective()),
    )


def test_h_the_end_of_text_is_learnt_where_it_is_the_padding_too(kind) -> None:
    end = tiny_model(kind).config.pad_token_id
    table = token_table(3)
    ids = [[*one[:-1], end] for one in table["input_ids"].to_pylist()]
    ended = TokenRows(table.set_column(1, "input_ids", [ids]))
    batch = ended.batch(range(3), pad=end)
    assert (batch.targets == end).sum() >= 3
    student = tiny_model(kind, seed=1)
    same(computed(student, ended, [[0, 1, 2]], Objective(), pad=end), naive(student, ended))


def kl_of(logits: torch.Tensor, signal, temperature: float) -> tuple[float, torch.Tensor]:
    """Its sum, and the gradient of T²·KL."""
    states = logits.clone().requires_grad_()
    targets = torch.zeros(len(logits), dtype=torch.long)
    parts = answer_loss(Answers(states, targets), Objective(0, 1, temperature), 1, signal)
    parts.loss.backward()
    assert parts.loss.item() == pytest.approx(temperature**2 * parts.kl.item())
    return parts.kl.item(), states.grad


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_j_with_all_tokens_kept_it_is_the_dense_loss_and_nearer_with_more(temperature) -> None:
    random = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(40, 200, generator=random).double() * 3 for _ in range(2))
    dense = OnlineSignal(Answers(teacher, torch.zeros(40, dtype=torch.long)), 200)
    expected, grad = kl_of(student, dense, temperature)
    made = [kl_of(student, CachedSignal(*top_k(teacher, k), 200), temperature) for k in (1, 8, 200)]
    assert made[-1][0] == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(made[-1][1], grad, rtol=1e-9, atol=1e-12)
    if temperature == 1:  # grouping can only lower a divergence; tempered, the bucket is another
        assert all(one[0] <= two[0] for one, two in pairwise(made))


def test_j_a_tail_below_the_rounding_of_one_is_summed_exactly() -> None:
    logits = torch.full((1, 50), -25.0)
    logits[0, :4] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    exact = logits.double().softmax(-1)[0, 4:].sum().item()
    assert 1e-11 < exact < 1e-9  # 1 - sum would give 0, or 6e-8
    assert top_k(logits, 4)[2].item() == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_j_tails_of_almost_nothing_stay_finite(temperature) -> None:
    sure, random = (
        torch.zeros(2, 50),
        torch.randn(2, 50, generator=torch.Generator().manual_seed(0)),
    )
    sure[:, 0] = 200.0  # the rest underflows to a mass of 0
    for student, teacher in ((random, sure), (sure, random), (sure, sure)):
        kl, grad = kl_of(student, CachedSignal(*top_k(teacher, 4), 50), temperature)
        assert math.isfinite(kl) and grad.isfinite().all()


def test_k_the_teacher_is_in_evaluation_mode_and_unchanged(kind, rows) -> None:
    teacher = tiny_model(kind, seed=2).train()
    before = copy.deepcopy(teacher.state_dict())
    computed(
        tiny_model(kind, seed=1), rows, SPLITS["fours"], MIX, OnlineTeacher(teacher, VOCABULARY)
    )
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def projects_answers_only(model, rows) -> bool:
    """Whether hidden states come out, to be projected at answer positions alone, not logits."""
    return AnswerModel(model)(rows.batch([0])).weight is not None


def test_models_that_scale_their_logits_are_not_split(rows) -> None:
    """trl#6629: a fused path that ignores a scale trains something else."""
    from transformers import CohereConfig, CohereForCausalLM

    assert projects_answers_only(tiny_model("llama"), rows)
    config = CohereConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, logit_scale=0.25, eos_token_id=4,
        bos_token_id=4, pad_token_id=4,
    )  # fmt: skip
    model = CohereForCausalLM(config).double()
    assert not projects_answers_only(model, rows)
    # Its layer norm computes in float32.
    same(computed(model, rows, SPLITS["fours"], Objective()), naive(model, rows), 1e-5, 1e-8)


def test_logits_never_exist_for_all_answers_at_once() -> None:
    """The largest tensor made while the loss is computed is a chunk's, or the weight's."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made = out if isinstance(out, tuple | list) else [out]
            seen.extend(one.numel() for one in made if isinstance(one, torch.Tensor))
            return out

    states = torch.randn(512, 8, requires_grad=True)
    weight = torch.randn(1000, 8, requires_grad=True)
    targets = torch.randint(1000, (512,))
    teacher = CachedSignal(*top_k(torch.randn(512, 1000), 16), 1000)
    with Watch():
        answer_loss(Answers(states, targets, weight), MIX, 512, teacher, chunk=16).loss.backward()
    assert max(seen) <= 16 * 1000


def test_bfloat16_autocast_keeps_the_softmax_in_float32(rows) -> None:
    student = tiny_model("llama", seed=1).float()
    teacher = OnlineTeacher(tiny_model("llama", seed=2).float(), VOCABULARY)
    exact = computed(student, rows, SPLITS["fours"], MIX, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        rough = computed(student, rows, SPLITS["fours"], MIX, teacher)
    assert rough[0] == pytest.approx(exact[0], rel=0.02)
    assert norm(rough[1]) == pytest.approx(norm(exact[1]), rel=0.05)


def test_objectives_that_make_no_sense_are_refused(rows) -> None:
    with pytest.raises(UserError, match="temperature"):
        Objective(temperature=0)
    with pytest.raises(UserError, match="not both 0"):
        Objective(alpha=0)
    with pytest.raises(UserError, match="no teacher"):
        computed(tiny_model(), rows, SPLITS["whole"], MIX)


def test_lora_adapters_train_through_the_split(rows) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ).double()
    assert projects_answers_only(model, rows)
    made = computed(model, rows, SPLITS["fours"], Objective())
    same(made, naive(model, rows))
    assert made[1] and all("lora" in name for name in made[1])


def test_without_gradients_none_are_computed(rows) -> None:
    student = AnswerModel(tiny_model("llama", seed=1))
    batch = rows.batch(range(4))
    expected = answer_loss(student(batch), Objective(), 5).loss.item()
    with torch.no_grad(), torch.autograd.profiler.profile() as profile:
        loss = answer_loss(student(batch), Objective(), 5).loss
    done = {event.name for event in profile.function_events}
    assert loss.item() == pytest.approx(expected)
    assert "aten::logsumexp" in done
    assert not [name for name in done if "backward" in name]
