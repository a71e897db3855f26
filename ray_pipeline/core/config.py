"""Configuration: YAML to typed objects, overrides, and error messages with the fix."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from ray_pipeline.core.errors import UserError

_Schema = TypeVar("_Schema", bound=BaseModel)
_Section = TypeVar("_Section", bound="Section")


class _ExecutionMark:
    """The type of `Execution`."""


#: Marks a field of a `Section`, as in ``actors: Annotated[int, Execution] = 1``. Such a field
#: controls where, how fast and with which timeouts and retries something is computed, never what:
#: the rows read, the requests to a model and the answers accepted stay the same. Changing it
#: therefore keeps finished work. It may still change the last digits of floating-point results
#: (another batch size, another device), an answer sampled by another engine, and whether a row
#: fails because a server was slower than the timeout.
Execution = _ExecutionMark()


@dataclass(frozen=True)
class AddedWith:
    """Marks a field that was added later; runs made before it behaved as if it were `before`.

    The field is left out of the identity where `before` is both its default and its value. So the
    fingerprints of older runs stay valid, and only configurations that set the field get new ones.
    """

    before: Any


class Section(BaseModel):
    """A part of a configuration. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The arguments of the call to `varied` that made this type; None for a type written in code.
    _varies: ClassVar[tuple[type[Section], dict[str, Any], dict[str, Any]] | None] = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a varied type by its arguments: it is in no module that could be imported."""
        if self._varies is None:
            return super().__reduce_ex__(protocol)
        return _restored, (self._varies, self.__getstate__())

    def identity(self) -> dict[str, Any]:
        """The fields that change results, as plain data, nested sections included.

        Fields marked `Execution` are left out, at any depth.
        """
        data: dict[str, Any] = self.model_dump(mode="json", exclude=_not_identity(self))
        return data


#: Fields by name, each with its type and its `Field`.
Fields = Mapping[str, tuple[Any, Any]]


def varied(
    schema: type[_Section], defaults: Mapping[str, Any], added: Fields = types.MappingProxyType({})
) -> type[_Section]:
    """A type like ``schema`` in which some fields have other defaults.

    Calls with equal arguments return the same type.

    Args:
        schema: the type to vary.
        defaults: the new defaults by field name. For a field that is itself a section, a mapping
            changes the defaults of the fields it names and leaves the others.
        added: further fields.

    Raises:
        TypeError: there is no such field, or the default is not allowed in it.
    """
    if not defaults and not added:
        return schema
    key = (schema, repr(sorted(defaults.items())), repr(sorted(added)))
    if key not in _VARIED:
        _VARIED[key] = _vary(schema, defaults, added)
    return _VARIED[key]


_VARIED: dict[Any, Any] = {}


def _vary(schema: type[_Section], defaults: Mapping[str, Any], added: Fields) -> type[_Section]:
    fields: dict[str, Any] = {}
    for name, value in defaults.items():
        if name not in schema.model_fields:
            known = nearest(name, list(schema.model_fields))
            raise TypeError(f"{schema.__qualname__} has no field {name!r}{known}")
        info = schema.model_fields[name]
        kind: Any = info.annotation
        if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, Section):
            kind = varied(kind, value)
            value = kind()
        marked = Annotated[(kind, *info.metadata)] if info.metadata else kind
        fields[name] = (marked, Field(value, description=info.description, validate_default=True))
    fields |= added
    made = create_model(schema.__name__, __base__=schema, __module__=schema.__module__, **fields)
    made._varies = (schema, dict(defaults), dict(added))
    try:
        if not any(info.is_required() for info in made.model_fields.values()):
            made()
    except ValidationError as error:
        raise TypeError(f"{schema.__qualname__}: {error}") from None
    return made


def _restored(varies: tuple[type[Section], Any, Any], state: Any) -> Section:
    """An instance of a varied type, in another process."""
    made = varied(*varies)
    section = made.__new__(made)
    section.__setstate__(state)
    return section


def _not_identity(section: Section) -> dict[str, Any]:
    """The ``exclude`` argument for pydantic's dump of a section: its non-identity fields."""
    excluded: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if Execution in info.metadata or _is_as_before(info, value):
            excluded[name] = True
        elif nested := _excluded_in(value):
            excluded[name] = nested
    return excluded


def _is_as_before(info: FieldInfo, value: Any) -> bool:
    marks = [mark for mark in info.metadata if isinstance(mark, AddedWith)]
    return any(value == info.default == mark.before for mark in marks)


def _excluded_in(value: Any) -> dict[Any, Any]:
    """The exclusions within a field's value: a section, or a mapping or list of sections."""
    if isinstance(value, Section):
        return _not_identity(value)
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {}
    return {key: nested for key, item in items if (nested := _excluded_in(item))}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    A dotted key at its top level, such as ``source.encoding: cp1252``, sets that key of the section
    ``source``: so a message's fix can be pasted.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected a mapping of keys, found {type(loaded).__name__}")
    dotted = {key: loaded.pop(key) for key in list(loaded) if isinstance(key, str) and "." in key}
    for key, value in dotted.items():
        _set(loaded, key, value, f"{path}: {key}")
    return loaded


def override(
    raw: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any]
) -> dict[str, Any]:
    """Set some keys of a copy of the raw configuration.

    Args:
        raw: the configuration.
        overrides: assignments as in ``budget.max_cost_usd=5``, whose values are YAML, or a
            mapping from dotted keys to values.

    Raises:
        UserError: an assignment without ``=``, or one that goes through a value.
    """
    result: dict[str, Any] = _deep_copy(dict(raw))
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _set(result, key, value, f"override {key!r}")
        return result
    for assignment in overrides:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set {assignment}: expected KEY=VALUE, as in budget.max_cost_usd=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: the value is not YAML: {error}") from None
        _set(result, key, value, f"--set {assignment}")
    return result


def _set(config: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Set a dotted key, in place; ``origin`` names the override in error messages."""
    *parents, last = key.split(".")
    section = config
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"{origin}: {parent} is a value, not a section")
    section[last] = value


def _deep_copy(value: Any) -> Any:
    return {k: _deep_copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def parse(raw: Mapping[str, Any], schema: type[_Schema], where: str) -> _Schema:
    """Validate a raw configuration against the job's configuration type.

    Args:
        raw: the configuration as plain data.
        schema: the type.
        where: the file or origin of the configuration, for messages.

    Raises:
        UserError: one line for each problem, with the key's path, what is allowed and, for an
            unknown key, the nearest known one.
    """
    try:
        return schema.model_validate(dict(raw))
    except ValidationError as error:
        lines = [_explain(dict(item), schema) for item in error.errors()]
        raise UserError(f"{where}: " + "\n".join(lines)) from None


def _explain(error: dict[str, Any], schema: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(schema, error["loc"][:-1])
        return f"unknown key {path!r}{nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key {path!r} is missing"
    if error["type"] == "value_error":  # raised by our own validators, with what was found
        message = str(error["msg"]).removeprefix("Value error, ")
        return f"{path}: {message}" if path else message
    return f"{path}: {error['msg']}, found {error['input']!r}"


def fix(key: str, value: Any) -> str:
    """A setting as one line of YAML, for messages: ``source.columns: {question: ' Question '}``.

    It can be pasted into a configuration file as it is, below its other keys: see `read_yaml`.

    Args:
        key: the dotted key.
        value: plain data.
    """
    text = yaml.safe_dump(
        value,
        default_flow_style=True,
        # A mark such as ; is clearer in quotes.
        default_style="'" if isinstance(value, str) and not re.search(r"\w", value) else None,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    text = text.removesuffix("\n").removesuffix("\n...")
    # YAML folds text with line ends over several lines; JSON is YAML, too, and does not.
    return f"{key}: {json.dumps(value, ensure_ascii=False) if chr(10) in text else text}"


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error message about an unknown name: the closest known name, and all names.

    Looks like ``; did you mean 'x'? (known: x, y, z)``.
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(sorted(known)) or 'none'})"


def _keys_at(model: Any, path: Sequence[Any]) -> list[str]:
    """The keys of the configuration type at ``path``."""
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            by_key = {info.alias or name: info for name, info in model.model_fields.items()}
            model = by_key[part].annotation if part in by_key else None
        else:  # the values of dict[str, Section]
            model = (typing.get_args(model) or (None,))[-1]
        model = _section_of(model)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [info.alias or name for name, info in model.model_fields.items()]
    return []


def _section_of(annotation: Any) -> Any:
    """The model class inside ``Section | None``; other annotations as they are."""
    if isinstance(annotation, types.UnionType):
        return next((a for a in typing.get_args(annotation) if a is not type(None)), None)
    return annotation
