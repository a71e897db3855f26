"""The student: cut from the teacher's layers, made from a configuration, or another model.

Cutting takes some of the teacher's layers with their weights, and its embeddings, final norm and
output projection as they are (Sanh et al. 2019, "DistilBERT": every second layer). All three ways
give a model of transformers, which `save` writes as an ordinary Hugging Face folder.
"""

from __future__ import annotations

import copy
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import Field, model_validator

from ray_pipeline.core.config import Section
from ray_pipeline.core.durable_files import make_folder, replace_folder
from ray_pipeline.core.errors import RunError, UserError, first_line, in_one_line
from ray_pipeline.models.hub import at_commit
from ray_pipeline.models.tokenizer import check_vocabulary, vocabulary_size

#: What a model does with a row: see `train.forward`.
ModelKind = Literal["causal", "seq2seq", "token_labels"]
_LOADERS: dict[ModelKind, str] = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "token_labels": "AutoModelForTokenClassification",
}


class StudentConfig(Section):
    """Which student. One of the fields is set."""

    every: int | None = Field(None, ge=1, description="keep every k-th layer of the teacher")
    layers: list[int] | None = Field(
        None, min_length=1, description="layers of the teacher to keep, counted from 0"
    )
    config: dict[str, Any] | None = Field(
        None,
        description="fields of the teacher's configuration to change, such as hidden_size; the "
        "weights are then random",
    )
    model: str | None = Field(
        None,
        description="another model with the same tokenizer: a packaged name, a folder or a hub id",
    )

    @model_validator(mode="after")
    def _one_way(self) -> StudentConfig:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"a student has one of every, layers, config and model; given: {given or 'none'}"
            )
        return self


def make_student(
    config: StudentConfig, teacher: Any, tokenizer: Any, seed: int = 0, resolved: str | None = None
) -> Any:
    """The student that a configuration describes, in float32, not sharing memory with its teacher.

    Args:
        config: the student's description.
        teacher: a causal language model of transformers.
        tokenizer: of the teacher and of the student.
        seed: of random weights.
        resolved: what transformers can load for ``config.model`` (see `packaged.resolve`).

    Raises:
        UserError: the teacher lacks a layer, the configuration is not one of a model, or the
            vocabulary is smaller than the tokenizer's.
    """
    if config.model is not None:
        student = load(resolved or config.model)
    elif config.config is not None:
        student = _from_config(config.config, teacher, seed)
    else:
        student = cut(teacher, config.layers or every_kth(layer_count(teacher), config.every or 1))
    fix = "take a student with the teacher's tokenizer, or a larger vocab_size"
    check_vocabulary("student", logit_count(student), vocabulary_size(tokenizer), fix)
    return student


def load(
    name: str,
    dtype: torch.dtype = torch.float32,
    quantization: Any = None,
    kind: ModelKind = "causal",
    seed: int = 0,
) -> Any:
    """A model from a folder or a hub id, in the precision that training needs.

    Args:
        name: folder or hub id.
        dtype: of the weights.
        quantization: transformers' configuration of frozen weights in fewer bits; None: none.
        kind: a causal language model, an encoder-decoder, or a classifier of tokens by two labels.
        seed: of weights that the folder lacks, such as the head of a new classifier.

    Raises:
        UserError: it cannot be loaded.
    """
    import transformers

    loader: Any = getattr(transformers, _LOADERS[kind])
    options = {"num_labels": 2} if kind == "token_labels" else {}
    try:
        repo, commit = at_commit(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return loader.from_pretrained(
                repo, dtype=dtype, quantization_config=quantization, **options, **commit
            )
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"model '{name}' cannot be loaded: {reason}") from error


def every_kth(layers: int, k: int) -> list[int]:
    """Layers 0, k, 2k, ... of ``layers``.

    Raises:
        UserError: k is larger than the number of layers.
    """
    if k > layers:
        raise UserError(f"every {k}th of {layers} layers: take at most {layers}")
    return list(range(0, layers, k))


def logit_count(model: Any) -> int:
    """Logits of a position: at least as many as its tokenizer has tokens."""
    return int(model.get_output_embeddings().weight.shape[0])


def layer_count(model: Any) -> int:
    """Decoder layers of a model."""
    return int(model.config.num_hidden_layers)


def cut(teacher: Any, layers: Sequence[int]) -> Any:
    """A model of some of a teacher's layers, with its embeddings, norms and output projection.

    Args:
        teacher: a causal language model of transformers.
        layers: numbers from 0, in the order of the student's layers.

    Returns:
        The same class of model, in float32, with its own memory.

    Raises:
        UserError: the teacher lacks a layer, or a layer is named twice.
    """
    number = layer_count(teacher)
    wrong = [layer for layer in layers if not 0 <= layer < number]
    if wrong or len(set(layers)) != len(layers) or not layers:
        raise UserError(
            f"layers {list(layers)}: the teacher has layers 0 to {number - 1}, each once"
        )
    student = type(teacher)(_cut_config(teacher.config, layers))
    prefix = _layers_prefix(teacher, number)
    weights = {}
    kept = {old: new for new, old in enumerate(layers)}
    for name, value in teacher.state_dict().items():
        match = re.match(rf"{re.escape(prefix)}\.(\d+)\.(.*)", name)
        if match is None:
            weights[name] = value
        elif int(match[1]) in kept:
            weights[f"{prefix}.{kept[int(match[1])]}.{match[2]}"] = value
    student.load_state_dict(weights)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.float()


def _cut_config(config: Any, layers: Sequence[int]) -> Any:
    """The teacher's configuration with fewer layers; lists with an entry a layer are cut too."""
    number, fields = int(config.num_hidden_layers), config.to_dict()
    fields[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(layers)
    for name, value in fields.items():
        if name == "layer_types" and isinstance(value, list) and len(value) == number:
            fields[name] = [value[layer] for layer in layers]
    fields["dtype"] = "float32"
    made = type(config).from_dict(fields)
    made._attn_implementation = config._attn_implementation
    return made


def _layers_prefix(model: Any, number: int) -> str:
    """Name of the list of decoder layers, such as ``model.layers``."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == number:
            return name
    raise UserError(
        f"{type(model).__name__} has no list of its {number} layers, so it cannot be cut: "
        "name a smaller model, or a configuration"
    )


def _from_config(changes: dict[str, Any], teacher: Any, seed: int) -> Any:
    known = teacher.config.to_dict()
    names = known.keys() | teacher.config.attribute_map.keys()
    unknown = sorted(changes.keys() - names)
    if unknown:
        raise UserError(f"the teacher's configuration has no {', '.join(unknown)}")
    renamed = {teacher.config.attribute_map.get(name, name): v for name, v in changes.items()}
    fields = {**known, **renamed, "dtype": "float32"}
    if "layer_types" not in changes:
        fields.pop("layer_types", None)  # of the teacher's layers; made anew for the student's
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return type(teacher)(type(teacher.config).from_dict(fields)).float()
        except (ValueError, TypeError, RuntimeError, StrictDataclassError) as error:
            raise UserError(f"student.config makes no model: {in_one_line(error)}") from error


def save(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a model and its tokenizer as a Hugging Face folder, complete or not at all.

    Args:
        model: of transformers. PEFT's adapters are merged into a copy first.
        tokenizer: saved with it.
        folder: a local path; what is there is replaced.
        dtype: of the weights in the file; None: as they are. The model itself stays as it is.
        files: texts by name, written beside it.

    Returns:
        The folder.

    Raises:
        RunError: it could not be written.
    """
    target = Path(folder)
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    if dtype is not None and next(model.parameters()).dtype != dtype:
        model = copy.deepcopy(model).to(dtype)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        make_folder(target.parent)
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for name, text in (files or {}).items():
            (scratch / name).write_text(text)
        replace_folder(scratch, target)
    except OSError as error:
        raise RunError(f"model could not be written to {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def parameter_count(model: Any) -> int:
    """Parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
