"""Keeps secrets out of everything that is shown, logged, passed on or written.

There are two strengths. `without_known` hides the values that this process knows to be secret:
those of the environment whose names say so, and those that were resolved from it. Nothing else in
a text changes, so it is right for data, such as rows and answers. `redacted` also hides what looks
like a secret: a login in a URL, a parameter such as ``key=``, the shapes of well-known API keys. It
is right for messages, logs and settings.

The name of an environment variable, as in ``${NAME}``, is no secret and stays.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

#: What is shown in place of a secret.
HIDDEN = "[hidden]"

#: A value of the environment: ``${NAME}``. ``$${NAME}`` is the text ``${NAME}``.
REFERENCE = re.compile(r"(?<!\$)\$\{([A-Za-z_]\w*)\}")

#: Characters that a value must have to be looked for in texts. A shorter one, such as "test", is
#: also an ordinary word: it is sent where it belongs, and nowhere else.
SHORTEST = 6

_remembered: set[str] = set()


def remember(secret: str) -> None:
    """Hide a value from now on, in this process, wherever `without_known` or `redacted` is used."""
    if len(secret) >= SHORTEST:
        _remembered.add(secret)


def without_known(text: str) -> str:
    """A text without the values that this process knows to be secret."""
    return without(_known(), text)


def without(secrets: Iterable[str], text: str) -> str:
    """A text without certain values, whether as they are or as URLs, JSON and HTML write them."""
    pattern = _pattern(frozenset(secrets))
    return pattern.sub(HIDDEN, text) if pattern is not None else text


def redacted(text: str) -> str:
    """A text without known secrets, and without what looks like a secret."""
    text = without_known(text)
    for marker, pattern, replacement in _LOOKS:
        if marker is None or marker in text:
            text = pattern.sub(replacement, text)
    return text


def of_server(text: str) -> str:
    """`redacted`, for the words of a server: it may quote an invalid key, or parts of one."""
    return _QUOTED_KEY.sub(HIDDEN, redacted(text))


def redacted_data(value: Any) -> Any:
    """Plain data without secrets: the values of fields with such a name, and all texts redacted."""
    return _redacted_data(value, is_free=False)


def _redacted_data(value: Any, is_free: bool) -> Any:
    if isinstance(value, dict):
        return {
            _text(key): HIDDEN
            if is_secret(key, item, is_free)
            else _redacted_data(item, is_free or key in FREE_FIELDS)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted_data(item, is_free) for item in value]
    return _text(value)


def _text(value: Any) -> Any:
    return redacted(value) if isinstance(value, str) else value


# --------------------------------------------------------------------------- names

#: Fields of a configuration whose keys are not ours but a server's or a library's.
FREE_FIELDS = frozenset({"extra_body", "engine_args", "headers", "chat_template_kwargs"})

_WORDS = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*")
_ALWAYS = {"password", "passwd", "passphrase", "secret", "secrets", "authorization", "credential"}
_ALWAYS |= {"credentials", "apikey", "apikeys", "cookie", "bearer"}
_BEFORE_KEY = {"api", "access", "secret", "private", "subscription", "auth", "account", "service"}
_BEFORE_KEY |= {"license", "encryption", "shared", "master", "server", "client", "app"}
#: What makes a token or a key something else: a token of text, a key of a cache.
_NO_SECRET = {"eos", "bos", "pad", "unk", "sep", "cls", "mask", "image", "audio", "video", "stop"}
_NO_SECRET |= {"start", "end", "begin", "special", "max", "min", "cache", "sort", "per", "next"}
_NO_SECRET |= {"page", "think", "thinking", "reasoning", "file", "path", "dir", "env", "name", "id"}
_PLACEHOLDERS = {"", "empty", "none", "null", "dummy", "no", "na", "n/a", "-", "x", "false", "true"}


def is_secret(name: Any, value: Any, is_free: bool = False) -> bool:
    """Whether a field holds a secret as plain text, as far as its name says.

    Args:
        name: of the field.
        value: of the field. A value that is taken from the environment (``${NAME}``) is none.
        is_free: whether the name is a server's or a library's (`FREE_FIELDS`); then ``key`` and
            ``token`` alone name secrets, too.
    """
    if not isinstance(name, str) or not _names_secret(name, is_free):
        return False
    values = value if isinstance(value, list | tuple) else [value]
    return any(_is_literal(item) for item in values)


def _is_literal(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return False
    text = str(value)
    is_shown = REFERENCE.search(text) is not None or text == HIDDEN
    return not is_shown and text.strip().lower() not in _PLACEHOLDERS


@lru_cache(maxsize=4096)
def _names_secret(name: str, is_free: bool) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or _NO_SECRET & set(words):
        return False
    if _ALWAYS & set(words):
        return True
    last = words[-1]
    if last in ("key", "keys"):
        return (len(words) > 1 and words[-2] in _BEFORE_KEY) or (is_free and name.lower() == "key")
    return last in ("token", "auth") and (len(words) > 1 or is_free)


# --------------------------------------------------------------------------- values

_OF_ENVIRONMENT = re.compile(
    r"(?:^|_)(?:API_?KEYS?|KEY|TOKEN|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:_\d+)?$"
    r"|SECRET_ACCESS_KEY|_CONNECTION_STRING$",
    re.IGNORECASE,
)
_PROXY = re.compile(r"^(?:[a-z]+)_proxy$", re.IGNORECASE)
_LOGIN_OF_PROXY = re.compile(r"^(?:[a-z0-9]+://)?([^/@]*)@", re.IGNORECASE)


def _known() -> frozenset[str]:
    # As Python stores it: reading all of it through `os.environ` takes 100 µs, this takes 2.
    stored = getattr(os.environ, "_data", os.environ)
    return _of_process(tuple(stored.items()), frozenset(_remembered))


@lru_cache(maxsize=4)
def _of_process(
    environment: tuple[tuple[Any, Any], ...], remembered: frozenset[str]
) -> frozenset[str]:
    """The remembered values, and those of the environment that their names call secret."""
    found = set(remembered)
    for variable in environment:
        name, value = map(os.fsdecode, variable)
        if _OF_ENVIRONMENT.search(name) and len(value) >= 8 and not value.startswith(("/", "~/")):
            found.add(value)
        elif _PROXY.match(name) and (login := _LOGIN_OF_PROXY.match(value)):
            user, _, password = login[1].partition(":")
            pair = f"{user}:{password}"
            found |= {login[1], base64.b64encode(pair.encode()).decode()}
            found |= {password} if password else set()
    return frozenset(secret for secret in found if len(secret) >= SHORTEST)


@lru_cache(maxsize=64)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    forms = {form for secret in secrets if secret for form in spellings(secret)}
    if not forms:
        return None
    # The longest first: a secret may be the beginning of another one.
    ordered = sorted(forms, key=lambda form: (-len(form), form))
    # A short one only as a whole word.
    quoted = ((re.escape(form), len(form) < SHORTEST) for form in ordered)
    return re.compile("|".join(rf"(?<!\w){q}(?!\w)" if short else q for q, short in quoted))


def spellings(secret: str) -> Iterator[str]:
    """A secret as it is, and as URLs, JSON, Python and HTML write it."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    in_json = json.dumps(secret)[1:-1]
    # Twice: a body of JSON that another one quotes.
    yield from (in_json, json.dumps(in_json)[1:-1])
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield html.escape(secret)
    yield html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


# --------------------------------------------------------------------------- looks

_NOT_REFERENCE = r"(?!\$\{\w+\})(?!\[hidden\])"
_NAME = r"(?:api[_-]?keys?|access[_-]?keys?|secret(?:[_-]?(?:access)?[_-]?key)?|passwd|password"
_NAME += r"|passphrase|private[_-]?key|subscription[_-]?key|(?:auth|access|api|hf|bearer|session)"
_NAME += r"[_-]?token|authorization|credentials?)"
_SCHEME = r"(?:(?:bearer|basic|token)\s{1,9})?"
_VALUE = rf"(?!{_SCHEME}(?:\$\{{\w+\}}|\[hidden\])){_SCHEME}"

#: A text that is in every match (None: there is no such text), the pattern, and what replaces it.
_LOOKS: list[tuple[str | None, re.Pattern[str], str]] = [
    (
        # user:password@ of a URL. A colon with a port is none, whatever follows.
        "://",
        re.compile(
            r"(?<=://)(?!\$\{\w+\}(?::\$\{\w+\})?@)[^\s/?#@'\"<>:]{0,300}:(?!\d{1,5}(?:[/?#\s]|$))"
            r"[^\s'\"<>]{1,300}@"
        ),
        f"{HIDDEN}@",
    ),
    (
        # A user alone is a token here. For other schemes it may be a container or a user's name.
        "://",
        re.compile(
            r"(?:(?<=http://)|(?<=https://)|(?<=s3://)|(?<=HTTP://)|(?<=HTTPS://))"
            r"(?!\$\{\w+\}(?::\$\{\w+\})?@)(?!\[hidden\]@)[^\s/?#@'\"<>:]{1,300}@"
        ),
        f"{HIDDEN}@",
    ),
    (
        "=",
        re.compile(
            r"([?&;][\w.-]{0,60}(?:key|token|secret|password|passwd|pwd|sig|signature|credential"
            rf"|auth))={_NOT_REFERENCE}[^&\s#'\"<>]{{1,2000}}",
            re.IGNORECASE,
        ),
        rf"\1={HIDDEN}",
    ),
    (
        "=",
        re.compile(rf"({_NAME})=(['\"]?){_VALUE}[^\s'\"&,;<>]{{1,2000}}", re.IGNORECASE),
        rf"\1=\2{HIDDEN}",
    ),
    (
        # 'api_key': 'value', as in JSON and in Python's dictionaries.
        ":",
        re.compile(
            rf"({_NAME}\\?['\"]\s{{0,9}}:\s{{0,9}}\\?['\"]){_VALUE}[^'\"\\]{{1,2000}}",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (
        # api_key: value, as a line of YAML or a header.
        ":",
        re.compile(
            rf"^([ \t]{{0,99}}[\w-]{{0,60}}{_NAME}[ \t]{{0,9}}:[ \t]{{0,9}}){_VALUE}"
            r"(?!\[\]|null\b)\S{1,2000}",
            re.IGNORECASE | re.MULTILINE,
        ),
        rf"\1{HIDDEN}",
    ),
    ("earer ", re.compile(r"(?<=[Bb]earer )(?=[\w.~+/=-]{0,200}\d)[\w.~+/=-]{8,2000}"), HIDDEN),
    (
        None,
        re.compile(
            r"\b(?:(?:sk|pk|rk)-(?=[\w-]{0,300}\d)[\w-]{16,300}|(?:sk|rk)_(?:live|test)_\w{10,300}"
            r"|hf_(?=\w{0,200}\d)[A-Za-z0-9]{16,200}|gsk_(?=\w{0,200}\d)\w{16,200}"
            r"|(?:xai|nvapi|pplx|glpat)-(?=[\w-]{0,300}\d)[\w-]{16,300}|r8_\w{20,200}"
            r"|(?:AKIA|ASIA)[A-Z0-9]{16}\b|AIza[\w-]{30,200}|gh[pousr]_\w{20,200}"
            r"|github_pat_\w{20,200}|xox[abeprs]-[\w-]{10,300}"
            r"|eyJ[\w-]{10,4000}\.eyJ[\w-]{10,4000}\.[\w-]{0,4000})"
        ),
        HIDDEN,
    ),
    (
        "PRIVATE KEY-----",
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]{0,20000}"
            r"(?:-----END [A-Z ]{0,40}KEY-----)?"
        ),
        HIDDEN,
    ),
]
#: A key as a server quotes it, also with stars, or cut off.
_QUOTED_KEY = re.compile(
    r"\b(?:sk|pk|key|gsk|xai)-[\w*.-]{6,}|\bAIza[\w-]{10,}|(?<=Bearer )[\w.~+/-]{8,}", re.IGNORECASE
)
_KEY_SHAPES = _LOOKS[-2][1]


# --------------------------------------------------------------------------- plain text in settings


def literal_secrets(settings: Any, is_free: bool = False) -> Iterator[tuple[str, Any, str]]:
    """The places of plain data that hold a secret as plain text.

    Only what is certain enough to be refused is found: a field with the name of a secret, a URL
    with a password or with a parameter of such a name, and the shapes of API keys.

    Args:
        settings: the data.
        is_free: as for `is_secret`.

    Yields: the dotted key, the value, and what gives it away.
    """
    yield from _literals(settings, "", is_free)


def parts_of(secret: Any) -> Iterator[str]:
    """The texts of a value that `literal_secrets` found; of a URL, its login and its parameters."""
    if isinstance(secret, list | tuple):
        for item in secret:
            yield from parts_of(item)
        return
    text = str(secret)
    if "://" not in text:
        yield text
        return
    url = urlsplit(text)
    for login in filter(None, (url.username, url.password)):
        yield from {login, unquote(login)}
    for name, values in parse_qs(url.query).items():
        yield from (value for value in values if is_secret(name, value, is_free=True))


def _literals(value: Any, key: str, is_free: bool) -> Iterator[tuple[str, Any, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            path = f"{key}.{name}" if key else str(name)
            if is_secret(name, item, is_free):
                yield path, item, "its name says that it is a secret"
            else:
                yield from _literals(item, path, is_free or name in FREE_FIELDS)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _literals(item, f"{key}.{number}", is_free)
    elif isinstance(value, str) and (why := _gives_away(value)):
        yield key, value, why


def has_login(url: str) -> bool:
    """Whether a URL holds a user and a password, or a key, as plain text."""
    return any(pattern.search(url) for _, pattern, _ in _LOOKS[:2])


def _gives_away(text: str) -> str | None:
    """Why a text must be a secret, or hold one; None: nothing says so."""
    if "://" in text and len(text.split()) == 1:
        for (_, pattern, _), why in zip(
            _LOOKS[:3],
            ("it is a URL with a user and a password", "it is a URL with a login", _OF_URL),
            strict=True,
        ):
            if pattern.search(text):
                return why
    if _KEY_SHAPES.fullmatch(text.removeprefix("Bearer ")):
        return "it looks like an API key"
    return "it is a private key" if _LOOKS[-1][1].search(text) else None


_OF_URL = "it is a URL with a secret among its parameters"
