"""Values of the environment in a configuration: ``${NAME}``.

They are resolved where they are used, in the process that uses them. Every file, message and
fingerprint holds the name. ``$${NAME}`` is the text ``${NAME}`` itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.redaction import REFERENCE, remember

_Value = TypeVar("_Value")


def names_in(value: Any) -> Iterator[str]:
    """The environment variables that plain data names as ``${NAME}``, at any depth."""
    if isinstance(value, str):
        yield from REFERENCE.findall(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from names_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from names_in(item)


def resolve(value: _Value, where: str) -> _Value:
    """Plain data with the values of the environment in place of each ``${NAME}``, at any depth.

    The values are remembered as secrets. Keys of mappings stay as they are.

    Args:
        value: the data.
        where: its key in the configuration, for messages.

    Raises:
        UserError: a variable is not set, or is empty.
    """
    result: _Value = _resolved(value, where)
    return result


def resolve_url(url: str, where: str) -> str:
    """A URL with the values of the environment in place of each ``${NAME}``, escaped where needed.

    Only before the host and after the question mark is a value escaped: elsewhere, as in
    ``${GATEWAY}/v1``, it may be a part of the URL itself.

    Raises:
        UserError: as `resolve`.
    """
    login, rest = _split_login(url)
    head, question, query = rest.partition("?")
    return (
        _substituted(login, where, escape=True)
        + _substituted(head, where)
        + question
        + _substituted(query, where, escape=True)
    )


def resolve_login(url: str, where: str) -> str:
    """A URL with the values of the environment in its user and password, where they are named.

    Raises:
        UserError: as `resolve`.
    """
    login, rest = _split_login(url)
    return _substituted(login, where, escape=True) + rest


def login_of(url: str) -> tuple[str, str] | None:
    """The user and the password of a URL, with the values of the environment; None: it has none.

    Raises:
        UserError: as `resolve`.
    """
    split = urlsplit(resolve_login(url, url))
    if not split.password:
        return None
    return unquote(split.username or ""), unquote(split.password)


def _split_login(url: str) -> tuple[str, str]:
    """A URL up to its ``@``, and the rest; the first is empty where it has no login."""
    start = url.find("://") + 3
    if start < 3:
        return "", url
    end = url.find("/", start)
    at = url.rfind("@", start, len(url) if end < 0 else end)
    return (url[: at + 1], url[at + 1 :]) if at >= 0 else ("", url)


def values_in(value: Any) -> list[str]:
    """The values of the environment variables that plain data names, as far as they are set."""
    return [found for name in names_in(value) if (found := os.environ.get(name, "").strip())]


def _resolved(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return _substituted(value, where)
    if isinstance(value, dict):
        return {key: _resolved(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item, where) for item in value]
    return value


def _substituted(text: str, where: str, escape: bool = False) -> str:
    if "${" not in text:
        return text
    result, end = [], 0
    for found in REFERENCE.finditer(text):
        result.append(_unescaped(text[end : found.start()]))
        value = _value(found[1], where)
        result.append(quote(value, safe="") if escape else value)
        end = found.end()
    return "".join([*result, _unescaped(text[end:])])


def _unescaped(text: str) -> str:
    return text.replace("$${", "${")


def _value(name: str, where: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise UserError(
            f"{where}: the environment variable {name} is not set: set it (`export {name}=...`), "
            f"or write another value in place of ${{{name}}}"
        )
    remember(value)
    return value
