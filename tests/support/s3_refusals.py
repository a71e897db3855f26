"""Lets the S3 server of the tests refuse what writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

_ANSWERS = {
    403: ("403 Forbidden", "AccessDenied", "Access Denied"),
    503: ("503 Slow Down", "SlowDown", "Please reduce your request rate"),
}


class Refusals:
    """What a server of moto's answers in place of the bucket.

    ``status``: HTTP status of each reply to a request that writes; None: nothing is refused.
    """

    def __init__(self, server: Any) -> None:
        self.status: int | None = None
        self.server = server._server
        self._app = self.server.app
        self.server.app = self._serve

    def _serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if self.status is None or environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            served: Iterable[bytes] = self._app(environ, start)
            return served
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        line, code, message = _ANSWERS[self.status]
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start(line, headers)
        return [body]
