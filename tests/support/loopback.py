"""The frame of the tests' HTTP servers: a server on 127.0.0.1 for the time of a block."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class LoopbackServer:
    """A server with a free port and a thread for each request.

    Args:
        handler: of the requests.
        kind: of the server.
    """

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        kind: type[ThreadingHTTPServer] = ThreadingHTTPServer,
    ) -> None:
        self._server = kind(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"
