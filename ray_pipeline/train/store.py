"""Trained models of a run: ordinary Hugging Face folders, on local or on object storage."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import torch

from ray_pipeline.core.durable_files import make_folder, replace_folder
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TEXT_FILE, TextConfig, Tokeniser
from ray_pipeline.rundir.models import model_folder
from ray_pipeline.train.student import save


def put_model(
    storage: Storage,
    name: str,
    model: Any,
    tokenizer: Any,
    text: TextConfig | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Save a model with its tokenizer in a run; ``config.json`` is written last.

    Args:
        storage: the run directory.
        name: of the model.
        model: of transformers, or PEFT's, which is merged.
        tokenizer: saved beside it.
        text: the format of its prompts. The tokens that ended answers in this format are saved with
            the model, so that any engine stops at them.
        dtype: of the weights in the file; None: as they are.

    Raises:
        RunError: it could not be written.
    """
    with tempfile.TemporaryDirectory(prefix="ray-pipeline-model-") as scratch:
        target = storage.local_path(model_folder(name)) if storage.is_local else Path(scratch, name)
        save(model, tokenizer, target, dtype, _notes(model, tokenizer, text) if text else {})
        if not storage.is_local:
            _upload(storage, name, target)


def _notes(model: Any, tokenizer: Any, text: TextConfig) -> dict[str, str]:
    """Files beside the weights: the format of prompts, and the tokens that end answers."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    generation = copy.deepcopy(plain.generation_config)
    own = generation.eos_token_id
    known = own if isinstance(own, list) else [own] if own is not None else []
    # The model's own token first: some engines read only one.
    trained = sorted(Tokeniser(tokenizer, text).ends() - set(known))
    generation.eos_token_id = [*known, *trained]
    return {
        # Its identity, not all fields: a field that was added later would give the same model
        # another revision.
        TEXT_FILE: json.dumps(text.identity(), ensure_ascii=False, separators=(",", ":")),
        "generation_config.json": generation.to_json_string(),
    }


def _upload(storage: Storage, name: str, folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == "config.json"):
        relative = path.relative_to(folder).as_posix()
        with storage.writer(f"{model_folder(name)}/{relative}") as target, path.open("rb") as file:
            shutil.copyfileobj(file, target, 2**24)


def put_sentence_model(storage: Storage, name: str, model: Any, card: str) -> None:
    """Save a sentence-transformers model in a run, with its card; ``config.json`` comes last.

    Args:
        storage: the run directory.
        name: of the model.
        model: of sentence-transformers.
        card: text of its ``README.md``.

    Raises:
        RunError: it could not be written.
    """
    with tempfile.TemporaryDirectory(prefix="ray-pipeline-model-") as scratch:
        if not storage.is_local:
            target = Path(scratch, name)
        else:
            target = storage.local_path(model_folder(name))
        try:
            made = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            make_folder(target.parent)
            model.save_pretrained(str(made), create_model_card=False)
            (made / "README.md").write_text(card)
            replace_folder(made, target)
        except OSError as error:
            raise RunError(f"model could not be written to {target}: {error}") from error
        if not storage.is_local:
            _upload(storage, name, target)
