"""Instruction-following difficulty against a plain computation, one row at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.engine.segments import apply_map
from ray_pipeline.stages.scoring.ifd import ScoreIfd

ROWS = [
    ("what is a ?", "b c d e"),
    ("what is the capital of f ?", "a b"),
    ("what", "the capital of a is the capital of b . " * 3),
    ("the answer : a question ?", "f f f f f f f"),
    ("a", "b \n c . d"),
]


def table(pairs: list[tuple[str | None, str | None]]) -> pa.Table:
    columns = {
        name: pa.array([pair[i] for pair in pairs], pa.string())
        for i, name in enumerate(("instruction", "response"))
    }
    return with_envelope(pa.table(columns), [f"row{i}" for i in range(len(pairs))])


def scorer(chat: bool = False, kind: str = "llama", model: Any = None, **config: Any) -> ScoreIfd:
    stage = ScoreIfd().bound(ScoreIfd.Config(model="tiny", **config))
    tokenizer = word_tokenizer(chat)
    stage.use(model or tiny_model(kind, vocabulary=len(tokenizer)).eval(), tokenizer)
    return stage


def scored(stage: ScoreIfd, pairs: Any) -> tuple[list[dict[str, Any]], Counter[str]]:
    counts: Counter[str] = Counter()
    out = apply_map(stage, table(pairs), counts)
    assert out["status"].to_pylist() == ["kept"] * len(pairs)
    return out.select(list(ScoreIfd.writes)).to_pylist(), counts


def plain_loss(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Mean loss of all answer tokens but the first, from whole logits, one token at a time."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logits = model(ids).logits[0].double()
    losses = []
    for place in range(len(prompt) + 1, ids.shape[1]):
        probabilities = torch.softmax(logits[place - 1], dim=-1)
        losses.append(-float(torch.log(probabilities[ids[0, place]])))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_is_the_ratio_of_two_plain_losses(kind: str, chat: bool) -> None:
    stage = scorer(chat, kind)
    tokenizer, model = stage._tokenise.tokenizer, stage._model.model
    found, counts = scored(stage, ROWS)
    assert counts["scored"] == len(ROWS)
    for (instruction, response), row in zip(ROWS, found, strict=True):
        prompt = f"### Instruction:\n{instruction}\n\n### Response:\n"
        if chat:
            turn = [{"role": "user", "content": instruction}]
            prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(response.strip(), add_special_tokens=False)["input_ids"]
        given, alone = plain_loss(model, before, answer), plain_loss(model, [], answer)
        assert row["loss_given_instruction"] == pytest.approx(given, abs=1e-5)
        assert row["loss_alone"] == pytest.approx(alone, abs=1e-5)
        assert row["ifd"] == pytest.approx(given / alone, abs=1e-5)


def test_batches_and_padding_change_nothing() -> None:
    together, _ = scored(scorer(batch_tokens=10_000), ROWS)
    for batch_tokens in (1, 40):
        apart, _ = scored(scorer(batch_tokens=batch_tokens), ROWS)
        for one, other in zip(together, apart, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    # Nor does the order of rows, or what else is there.
    backwards, _ = scored(scorer(), ROWS[::-1] + [("what", "a b c")] * 3)
    for one, other in zip(together, backwards[: len(ROWS)][::-1], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_of_perplexities_it_is_the_difference_of_losses() -> None:
    found, _ = scored(scorer(ratio="perplexity"), ROWS)
    for row in found:
        difference = row["loss_given_instruction"] - row["loss_alone"]
        assert row["ifd"] == pytest.approx(np.exp(difference), abs=1e-5)


def test_long_answers_are_cut_the_same_in_both_passes() -> None:
    long = "a b c d e f " * 30
    cut, _ = scored(scorer(max_tokens=5), [("what", long), ("what", "a b c d e")])
    assert cut[0] == pytest.approx(cut[1], abs=1e-9)
    # What the model's positions leave no room for is cut, too; gpt2 has 64 of them here.
    found, counts = scored(scorer(kind="gpt2"), [("what", long)])
    assert found[0]["ifd"] is not None and counts["scored"] == 1


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (("what", ""), "no answer"),
        (("what", None), "no answer"),
        (("what", " \n"), "no answer"),
        (("", "a b c"), "no instruction"),
        ((None, None), "no instruction"),
        (("what", "a"), "answer too short"),
        (("a b c d e f " * 40, "a b c"), "instruction too long"),
    ],
)
def test_what_cannot_be_scored_is_null_and_counted(pair: Any, why: str) -> None:
    stage = scorer(max_instruction_tokens=100)
    found, counts = scored(stage, [ROWS[0], pair])
    assert found[0]["ifd"] is not None
    assert set(found[1].values()) == {None}
    assert counts[f"no score: {why}"] == 1 and counts["scored"] == 1


def test_losses_that_are_no_numbers_give_no_score() -> None:
    model = tiny_model(vocabulary=len(word_tokenizer())).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = float("nan")
    found, counts = scored(scorer(model=model), ROWS)
    assert all(value is None for row in found for value in row.values())
    assert counts["no score: loss not finite"] == len(ROWS)


def test_an_answer_that_is_certain_alone_has_no_ratio() -> None:
    stage = scorer()
    stage._losses = lambda texts: (np.array([0.5, 0.0]), np.array([0.0, 0.0]))  # type: ignore[method-assign]
    found, counts = scored(stage, ROWS[:2])
    assert [row["ifd"] for row in found] == [None, None]
    assert counts["no score: answer certain alone"] == 2


def test_no_rows() -> None:
    assert scored(scorer(), []) == ([], Counter(scored=0, **{"ifd above 1": 0}))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.none() | st.text(max_size=30), st.none() | st.text(max_size=60))))
def test_any_text_is_scored_or_null(pairs: Any) -> None:
    found, counts = scored(scorer(), pairs)
    assert all(row["ifd"] is None or row["ifd"] > 0 for row in found)
    assert counts["scored"] == sum(row["ifd"] is not None for row in found)


def test_it_is_off_without_a_model() -> None:
    assert ScoreIfd().bound().is_off
    assert not ScoreIfd().bound({"model": "smollm2-135m-instruct"}).is_off
