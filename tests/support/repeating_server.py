"""An HTTP server on this machine that repeats whatever it was sent: headers, address and body."""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler

from support.loopback import LoopbackServer
from support.scripted_server import completion


class RepeatingServer(LoopbackServer):
    """Repeats a request in an answer, or in an error where the text names its status.

    ``error-400`` in the last message's text makes it a refusal, and so on; ``not-json`` an answer
    of success that is no JSON; ``sampled`` an error in words that only looks like a key.
    """

    def __init__(self) -> None:
        #: What arrived: address, headers (with logins decoded) and body, as text.
        self.arrived: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                text = json.loads(body)["messages"][-1]["content"].lower()
                seen = f"POST {self.path} {dict(self.headers)} {body}"
                login = self.headers.get("Authorization", "")
                if login.startswith("Basic "):
                    seen += f" login {base64.b64decode(login[6:]).decode()}"
                server.arrived.append(seen)
                status, reply = _reply(text, seen)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.send_header("Location", f"http://127.0.0.1:9{self.path}")
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)


def _reply(text: str, seen: str) -> tuple[int, bytes]:
    for status in (400, 401, 403, 422, 429, 500):
        if f"error-{status}" in text:
            return status, json.dumps({"error": {"message": f"bad request: {seen}"}}).encode()
    if "in-plain-words" in text:
        return 400, f"refused {seen}".encode()
    if "not-json" in text:
        return 200, f"<html>{seen}</html>".encode()
    return 200, json.dumps(completion(f"You said {seen}")).encode()
