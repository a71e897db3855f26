"""Whether a key of the configuration that differs between two runs can change rows.

The answer is in the run directories: each stage's ``done.json`` holds what its fingerprint was made
of. A key whose change left that the same can only affect how rows are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from ray_pipeline.rundir.reader import RunReader

Effect = Literal["identity", "execution"]

#: Top-level keys that control where, how fast or how far a run goes, never the values of its rows.
_EXECUTION = {"address", "autoscaling", "budget", "export", "job", "name", "run_dir"}
_EXECUTION |= {"save_every_stage", "unit_rows"}
_MISSING = object()


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings flattened into one, with dotted keys."""
    if not isinstance(value, dict) or (key and not value):
        return {key: value}
    flattened: dict[str, Any] = {}
    for name, inner in value.items():
        flattened |= flat(inner, f"{key}.{name}" if key else str(name))
    return flattened


class Effects:
    """Classifies configuration keys by what a change between two runs can affect.

    Args:
        a: the first run.
        b: the second run.
    """

    def __init__(self, a: RunReader, b: RunReader) -> None:
        self._configs = a.config, b.config
        self._identities = a.identities, b.identities

    def of(self, key: str) -> Effect | None:
        """The effect of a changed key such as ``stages.rephrase.threshold``; None: not known."""
        top, _, rest = key.partition(".")
        if top in _EXECUTION:
            return "execution"
        if key == "source.path" or (key.startswith("sources.") and key.endswith(".path")):
            return None  # the content of the files counts, not their path
        if top in ("seed", "source", "sources", "embedder"):
            return "identity"
        name, _, path = rest.partition(".")
        if top == "stages":
            return self._effect([self._of_stage(name, path)])
        if top == "llms":
            return self._effect([self._in_llm(stage, path) for stage in self._askers(name)])
        return None

    def _effect(self, differences: list[bool | None]) -> Effect | None:
        """The effect of a key, from whether it changed each stage's identity (None: not known)."""
        known = [differs for differs in differences if differs is not None]
        if not known:
            return None
        return "identity" if any(known) else "execution"

    def _of_stage(self, stage: str, path: str) -> bool | None:
        """Whether a key changed the identity of a stage; None: not known."""
        a, b = (identities.get(stage) for identities in self._identities)
        if a is None or b is None:
            return None
        if "config" not in a or "config" not in b:
            return bool(a != b)  # turned off in one of them, or in both
        # An ask stage's identity holds the resolved prompt and model beside its other keys.
        return _at({**a, **a["config"]}, path) != _at({**b, **b["config"]}, path)

    def _in_llm(self, stage: str, path: str) -> bool | None:
        """Whether a key of a language model changed the identity of a stage; None: not known."""
        a, b = (identities.get(stage, {}).get("llm") for identities in self._identities)
        if a is None or b is None:
            return None
        differ = _at(a, path) != _at(b, path)
        return differ or (path == "engine" and a.get("weights") != b.get("weights"))

    def _askers(self, llm: str) -> Iterator[str]:
        """The stages that ask a language model, in either run."""
        for config in self._configs:
            for stage, values in (config.get("stages") or {}).items():
                if isinstance(values, dict) and values.get("llm") == llm:
                    yield stage


def _at(values: dict[str, Any], path: str) -> Any:
    """The value at a dotted key, or `_MISSING`."""
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            return _MISSING
        values = values[name]
    return values
