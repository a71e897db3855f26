"""Students: cut from a teacher, from a configuration, another model; saved for anyone to load."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import VOCABULARY, tiny_model, word_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.tokenizer import vocabulary_size
from ray_pipeline.train.student import (
    StudentConfig,
    cut,
    every_kth,
    load,
    make_student,
    parameter_count,
    save,
)

IDS = torch.arange(12)[None]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_all_layers_cut_out_give_the_teacher(kind) -> None:
    teacher = tiny_model(kind, layers=3).float()
    assert torch.equal(cut(teacher, [0, 1, 2])(IDS).logits, teacher(IDS).logits)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_third_of_the_layers_has_their_weights_and_its_own_memory(kind) -> None:
    teacher = tiny_model(kind, layers=6).float()
    student = make_student(StudentConfig(every=3), teacher, word_tokenizer())
    assert student.config.num_hidden_layers == 2
    layers = [model.base_model.h if kind == "gpt2" else model.base_model.layers
              for model in (teacher, student)]  # fmt: skip
    for new, old in enumerate([0, 3]):
        kept, was = layers[1][new].state_dict(), layers[0][old].state_dict()
        assert all(torch.equal(kept[name], was[name]) for name in was)
    embeddings = [model.get_input_embeddings().weight for model in (teacher, student)]
    assert torch.equal(*embeddings)
    assert embeddings[0].data_ptr() != embeddings[1].data_ptr()
    assert parameter_count(student) < parameter_count(teacher)
    assert student.generate(IDS, max_new_tokens=3, do_sample=False).shape[1] > 12


def test_layers_of_several_kinds_keep_theirs() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    kinds = ["full_attention", "sliding_attention"] * 2
    teacher = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=2, layer_types=kinds,
            use_sliding_window=True, sliding_window=4, max_window_layers=0,
        )
    )  # fmt: skip
    student = cut(teacher, [1, 2, 3])
    assert student.config.layer_types == kinds[1:]
    assert student(IDS).logits.isfinite().all()


def test_a_student_from_a_configuration_repeats_with_its_seed() -> None:
    teacher, config = (
        tiny_model("gpt2"),
        StudentConfig(config={"num_hidden_layers": 1, "n_embd": 8}),
    )
    one, two = (make_student(config, teacher, word_tokenizer(), seed=s) for s in (1, 1))
    assert one.config.n_layer == 1 and one.config.n_embd == 8
    assert torch.equal(one(IDS).logits, two(IDS).logits)
    assert not torch.equal(
        one(IDS).logits, make_student(config, teacher, word_tokenizer(), 2)(IDS).logits
    )


def test_a_saved_student_is_an_ordinary_folder(tmp_path) -> None:
    tokenizer = word_tokenizer(chat=True)
    student = cut(tiny_model("llama"), [1])
    folder = save(student, tokenizer, tmp_path / "student", torch.bfloat16)
    save(student, tokenizer, folder)  # over an older one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(again(IDS).logits, student(IDS).logits)
    read = AutoTokenizer.from_pretrained(folder)
    assert read.chat_template == tokenizer.chat_template
    assert read.get_vocab() == tokenizer.get_vocab()
    other = make_student(StudentConfig(model=str(folder)), tiny_model(), tokenizer)
    assert other.config.num_hidden_layers == 1 and other.dtype == torch.float32


def test_adapters_are_merged_before_saving(tmp_path) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(tiny_model("llama").float(), lora)
    folder = save(model, word_tokenizer(), tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)
    assert hasattr(model, "peft_config")


def test_what_makes_no_student_is_refused(tmp_path) -> None:
    teacher, tokenizer = tiny_model("llama"), word_tokenizer()
    assert every_kth(7, 3) == [0, 3, 6]
    for layers in ([0, 2], [0, 0], []):
        with pytest.raises(UserError, match="layers 0 to 1"):
            cut(teacher, layers)
    with pytest.raises(UserError, match="every 3th of 2"):
        make_student(StudentConfig(every=3), teacher, tokenizer)
    with pytest.raises(UserError, match="has no n_layerz"):
        make_student(StudentConfig(config={"n_layerz": 1}), teacher, tokenizer)
    with pytest.raises(UserError, match="makes no model"):
        make_student(StudentConfig(config={"hidden_size": -3}), teacher, tokenizer)
    with pytest.raises(UserError, match=f"5 logits and the tokenizer {vocabulary_size(tokenizer)}"):
        make_student(
            StudentConfig(config={"vocab_size": 5, "pad_token_id": None}), teacher, tokenizer
        )
    with pytest.raises(UserError, match="cannot be loaded"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="one of every, layers, config and model"):
        StudentConfig()
