"""What the tests of locks do to the S3 server: age an object, and let it ignore conditions."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def make_older(key: str, seconds: float) -> None:
    """Let an object of the bucket ``bucket`` have been written some seconds earlier."""
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID

    backend: Any = get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]
    found = backend.buckets["bucket"].keys[key]
    found.last_modified -= datetime.timedelta(seconds=seconds)


@contextlib.contextmanager
def conditions_ignored(s3: Any) -> Iterator[None]:
    """Let the server write whatever the conditions of a request are, as some servers do."""
    server = s3.refusals.server
    app = server.app

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        for name in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            environ.pop(name, None)
        served: Iterable[bytes] = app(environ, start)
        return served

    server.app = serve
    try:
        yield
    finally:
        server.app = app
