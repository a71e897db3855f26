"""Models of the Hugging Face hub: which commit an id means, and how a commit is loaded.

A branch of the hub moves. So an id is resolved to a commit once, and written ``org/name@COMMIT``
from then on: `at_commit` splits that for the libraries, on every machine that loads the model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Seconds that the hub may take to name a commit.
_SECONDS = 10


class HubError(Exception):
    """The hub does not give a model. ``is_unknown``: it says that it has none with that name."""

    def __init__(self, message: str, is_unknown: bool = False) -> None:
        super().__init__(message)
        self.is_unknown = is_unknown


def at_commit(model: str) -> tuple[str, dict[str, Any]]:
    """A folder or hub id as ``from_pretrained`` takes it, with the arguments for its commit.

    Args:
        model: a folder, ``org/name``, or ``org/name@REVISION``.
    """
    repo, at, revision = model.rpartition("@")
    if not at or not HUB_ID.fullmatch(model) or Path(model).is_dir():
        return model, {}
    return repo, {"revision": revision}


def is_commit(model: str) -> bool:
    """Whether a hub id names a commit: ``org/name@COMMIT``."""
    return _COMMIT.fullmatch(model.rpartition("@")[2]) is not None


def commit_of(repo: str, revision: str | None) -> str:
    """The commit that a revision of a model stands for now.

    The hub says it; where it cannot be reached, or must not be, the local cache does.

    Args:
        repo: the hub id.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        HubError: neither knows it.
    """
    from huggingface_hub import HfApi, constants, errors

    if revision is not None and _COMMIT.fullmatch(revision) and _cached(repo, revision):
        return revision
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            commit = HfApi().model_info(repo, revision=revision, timeout=_SECONDS).sha
            if commit:
                return commit
            reason = "the hub names no commit"
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise HubError(f"{type(error).__name__}", is_unknown=True) from error
        except Exception as error:  # the client lets its transport's own errors through
            reason = type(error).__name__
    if (commit := _cached(repo, revision)) is not None:
        return commit
    raise HubError(reason)


def _cached(repo: str, revision: str | None) -> str | None:
    """The commit of a revision in the local cache; None if its files are not there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(path, str):
        return None
    commit = Path(path).parent.name  # .../snapshots/COMMIT/config.json
    return commit if _COMMIT.fullmatch(commit) else None
