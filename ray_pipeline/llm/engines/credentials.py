"""What requests to a server carry that must not be seen: keys, logins, and other secrets.

They come from the environment: API keys by the names in ``api_keys_env``, and everything else as
``${NAME}`` in ``base_url``, ``headers`` and ``extra_body``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.redaction import (
    SHORTEST,
    is_secret,
    literal_secrets,
    of_server,
    parts_of,
    remember,
    without,
)
from ray_pipeline.core.references import resolve, resolve_url, values_in
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig

DEFAULT_BASE_URL = "https://api.openai.com/v1"


class Credentials:
    """The address, the headers and the further fields of a model's requests.

    Args:
        name: the model's name under ``llms``.
        config: its configuration.
        keys: its API keys by label; None for a server without keys.

    Attributes:
        url: where requests go, without a login.
        headers: the headers of each request, by the label of its key.
        extra_body: further fields of each request's body.

    Raises:
        UserError: a variable is not set, or ``base_url`` is not a URL.
    """

    def __init__(self, name: str, config: LlmConfig, keys: Mapping[str, str | None]) -> None:
        where = f"llms.{name}"
        url = completions_url(name, config)
        self.url = url.with_user(None)
        self.extra_body: dict[str, Any] = resolve(config.extra_body, f"{where}.extra_body")
        further = resolve(config.headers, f"{where}.headers")
        login = None if url.user is None else _basic(url)
        self.headers = {label: _headers(key, login, further) for label, key in keys.items()}
        settings = [config.base_url, config.headers, config.extra_body]
        self._secrets = {key for key in keys.values() if key} | {*_of_url(url)}
        self._secrets |= {*values_in(settings)}
        # A run directory from before plain text was refused may hold it.
        literals = literal_secrets(settings[1:], is_free=True)
        self._secrets |= {part for _, value, _ in literals for part in parts_of(value)}
        for secret in self._secrets:
            remember(secret)
        # A shorter one may be an ordinary word of an answer.
        self._long = [secret for secret in self._secrets if len(secret) >= SHORTEST]

    def hidden(self, text: str) -> str:
        """A server's message with its secrets, and all that looks like one, hidden."""
        return of_server(without(self._secrets, text))

    def hidden_in_answer(self, response: Response) -> Response:
        """An answer, which is data, with the secrets hidden that it repeats."""
        response.text = without(self._long, response.text)
        if response.thinking is not None:
            response.thinking = without(self._long, response.thinking)
        return response


def completions_url(name: str, config: LlmConfig) -> URL:
    """Where a model's requests go, with the values of the environment.

    Raises:
        UserError: ``base_url`` is not a URL, has a login beside API keys, or a variable is not set.
    """
    base = config.base_url or DEFAULT_BASE_URL
    where = f"llms.{name}.base_url"
    try:
        url = URL(resolve_url(base, where))
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"{where}: {base!r} is not a URL like https://host/v1")
    if url.user is not None and config.api_keys_env:
        raise UserError(
            f"{where}: it has a user, and api_keys_env names a key: a request can carry only one "
            "of them. Give api_keys_env: [], or a URL without a user"
        )
    return url.with_path(f"{url.path.rstrip('/')}/chat/completions", keep_query=True)


def _basic(url: URL) -> str:
    """The header of a request with the login of a URL."""
    return aiohttp.BasicAuth(url.user or "", url.password or "", "utf-8").encode()


def _of_url(url: URL) -> Iterator[str]:
    """What a URL holds that must not be seen: its login, and the values of some parameters."""
    if url.user is not None:
        yield _basic(url).removeprefix("Basic ")
        yield url.password or url.user
    yield from (value for name, value in url.query.items() if is_secret(name, value, is_free=True))


def _headers(key: str | None, login: str | None, further: Mapping[str, str]) -> dict[str, str]:
    """The headers of each request.

    Args:
        key: the API key, if there is one.
        login: the header of the URL's login, if it has one.
        further: the configured headers; one of the same name replaces that of the key.
    """
    headers = {"Content-Type": "application/json"}
    if authorization := f"Bearer {key}" if key is not None else login:
        headers["Authorization"] = authorization
    names = {name.lower() for name in further}
    return {n: value for n, value in headers.items() if n.lower() not in names} | dict(further)
