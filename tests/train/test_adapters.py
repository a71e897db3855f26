"""LoRA: only the adapter is trained, and what is saved is an ordinary model with it merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from support.tiny_models import tiny_model, token_table, word_tokenizer
from support.tiny_study import tiny_job
from transformers import AutoModelForCausalLM

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.models import get_model
from ray_pipeline.train.adapters import AdapterConfig, with_adapter
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.checkpoints import Checkpoints
from ray_pipeline.train.job import ModelSource, train
from ray_pipeline.train.loop import Loop, LoopConfig, World
from ray_pipeline.train.losses import Objective
from ray_pipeline.train.replica import Whole
from ray_pipeline.train.store import put_model

CONFIG = AdapterConfig(rank=2, alpha=4, dropout=0.0)


def read_lines(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def adapted(seed: int = 0):
    return with_adapter(tiny_model("llama", seed=1), CONFIG, seed)


def trained(model, **more) -> Loop:
    plan = BatchPlan(TokenRows(token_table(16)), BatchConfig(step_rows=8, batch_tokens=100))
    loop = Loop(Whole(model), plan, config=LoopConfig(learning_rate=1e-2, epochs=2), **more)
    loop.run()
    return loop


def test_only_the_adapter_is_trained_and_saved_in_checkpoints(tmp_path: Path) -> None:
    model = adapted()
    before = {name: value.clone() for name, value in model.named_parameters()}
    storage = Storage(str(tmp_path))
    trained(model, checkpoints=Checkpoints(storage))
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == ("lora_" not in name), name
    saved = Checkpoints(storage).latest()
    assert saved is not None
    assert all("lora_" in name for name in saved["weights"])
    assert sum(value.numel() for value in saved["weights"].values()) < 2_000


def test_what_is_saved_is_the_merged_model(tmp_path: Path) -> None:
    model = adapted()
    trained(model)
    storage = Storage(str(tmp_path))
    put_model(storage, "teacher", model, word_tokenizer())
    loaded = AutoModelForCausalLM.from_pretrained(
        get_model(storage, "teacher"), dtype=torch.float64
    ).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        # The model's own norms compute in float32, those of the fixture in float64.
        expected = model.eval()(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected, rtol=1e-3, atol=1e-5)
        plain = tiny_model("llama", seed=1).eval()
        assert not torch.allclose(plain(ids).logits, loaded(ids).logits)


def test_the_same_seed_makes_the_same_adapter() -> None:
    ones, others = (
        {name: value for name, value in adapted(seed).state_dict().items() if "lora_A" in name}
        for seed in (3, 3)
    )
    assert ones and all(torch.equal(ones[name], others[name]) for name in ones)
    third = adapted(4).state_dict()
    assert any(not torch.equal(ones[name], third[name]) for name in ones)


def test_what_cannot_be_adapted_is_said() -> None:
    with pytest.raises(UserError, match=r"adapter\.targets: .*no_such_module"):
        with_adapter(tiny_model(), AdapterConfig(targets=["no_such_module"]), 0)


def test_an_adapter_beside_weights_in_4_bits_is_merged_into_those_in_full(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = CONFIG.model_copy(update={"four_bit": True})
    job = tiny_job(tmp_path, max_steps=8, learning_rate=1e-2)
    wide = {"hidden_size": 64, "intermediate_size": 64}  # bitsandbytes takes blocks of 32 on a CPU
    vocabulary = len(word_tokenizer().get_vocab())
    put_model(
        job.storage, "teacher", tiny_model(vocabulary=vocabulary, **wide).float(), word_tokenizer()
    )
    job = replace(
        job,
        model=ModelSource("teacher", of_run=True, adapter=config),
        name="tuned",
        objective=Objective(),
        teacher=None,
    )
    train(job, World(), "cpu", lambda figures: None)
    losses = [line["loss"] for line in read_lines(tmp_path / job.curve) if "loss" in line]
    assert losses[-1] < losses[0]
    before, after = (
        AutoModelForCausalLM.from_pretrained(get_model(job.storage, name)).state_dict()
        for name in ("teacher", "tuned")
    )
    assert not hasattr(AutoModelForCausalLM.from_pretrained(tmp_path / "models/tuned").config,
                       "quantization_config")  # fmt: skip
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all("_proj" in name for name in changed)
    # What 4 bits lose (some 5% of each weight here) would show in every singular value; an adapter
    # of rank 2 changes two.
    for name in changed:
        values = torch.linalg.svdvals(after[name] - before[name])
        assert values[2:].max() < 1e-4 * values[0], name


def test_an_evaluation_changes_no_gradient_of_an_adapter_beside_4_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tiny_model(hidden_size=64, intermediate_size=64).float().save_pretrained(tmp_path)
    config = CONFIG.model_copy(update={"four_bit": True})
    ids = torch.arange(32)[None]

    def gradients(evaluated: bool) -> dict[str, torch.Tensor]:
        model = ModelSource(str(tmp_path), adapter=config).build(Storage(str(tmp_path)), 0)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        torch.manual_seed(1)
        for parameter in trained.values():
            torch.nn.init.normal_(parameter, std=0.1)
        if evaluated:
            with torch.no_grad():
                model.eval()(ids)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad for name, p in trained.items() if p.grad is not None}

    before, after = gradients(evaluated=False), gradients(evaluated=True)
    assert before
    for name, expected in before.items():
        torch.testing.assert_close(after[name], expected)
