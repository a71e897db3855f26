"""The models of a run: each name means one set of weights for as long as the run directory lives.

``environment.json`` holds the identity of each. A hub id without a commit gets the commit that it
has when the run begins, also where the hub has moved on when the run continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import yaml

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models import hub
from ray_pipeline.models import packaged as models
from ray_pipeline.rundir.layout import CONFIG_FILE, ENVIRONMENT_FILE

#: The key of ``environment.json``.
MODELS_KEY = "models"


class PinnedModels:
    """Resolves models' names for a run.

    Args:
        storage: the run directory, which need not exist.

    Attributes:
        identities: the identity of each model's weights by its name, those of earlier starts
            included; ``name@revision`` where a revision is set apart.
    """

    def __init__(self, storage: Storage) -> None:
        self.identities: dict[str, str] = {}
        environment = _loaded(storage, ENVIRONMENT_FILE)
        recorded = environment.get(MODELS_KEY)
        if isinstance(recorded, dict):
            self.identities = {str(name): str(value) for name, value in recorded.items()}
        elif environment:
            # A run from before commits were recorded: its hub ids mean what they did, no commit.
            names = set(_models_in(_loaded(storage, CONFIG_FILE)))
            self.identities = {name: name for name in names if models.is_hub_id(name)}

    def resolve(self, name: str, where: str, revision: str | None = None) -> tuple[str, str]:
        """What the libraries load for a model's name, and the identity of its weights.

        Args:
            name: a packaged model, a folder or a hub id.
            where: its key in the configuration, for messages.
            revision: of the hub, where it is set apart from the name.

        Raises:
            UserError: the model is not available, or not what it says.
        """
        try:
            if not models.is_hub_id(name):
                found = models.resolve(name), models.revision(name)
                self.identities[name] = found[1]
                return found
            key = name if revision is None or "@" in name else f"{name}@{revision}"
            before = self.identities.get(key)
            if before is None and self.identities.get(name) == name:
                before = name
            if before == name and not hub.is_commit(name):
                return models.resolve(name), models.revision(name)
            pinned = models.pinned(before or key)
        except models.ModelError as error:
            raise UserError(f"{where}: {error}") from None
        self.identities[key] = pinned
        return pinned, pinned


def _loaded(storage: Storage, path: str) -> dict[str, Any]:
    """A file of the run directory as a mapping; empty if there is none that can be read."""
    raw = storage.read_bytes(path) or b""
    try:
        loaded = yaml.safe_load(raw) if path == CONFIG_FILE else orjson.loads(raw or b"{}")
    except (yaml.YAMLError, orjson.JSONDecodeError, UnicodeDecodeError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _models_in(config: Any, key: str = "") -> Iterator[str]:
    """The texts of a configuration under keys that name models."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _models_in(value, str(name))
    elif isinstance(config, list):
        for value in config:
            yield from _models_in(value, key)
    elif isinstance(config, str) and key.endswith(("model", "tokenizer", "teacher")):
        yield config
