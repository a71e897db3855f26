"""An HTTP server on this machine whose replies a test writes, byte by byte."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.loopback import LoopbackServer

CASES = Path(__file__).parents[1] / "cases" / "replies.json"


@dataclass(frozen=True)
class Scripted:
    """A reply: its status, its body, its headers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, value: Any, **headers: str) -> Scripted:
        """A reply whose body is JSON."""
        return cls(
            status, json.dumps(value).encode(), {k.replace("_", "-"): v for k, v in headers.items()}
        )


def answer(text: str = "Which item?", **fields: Any) -> Scripted:
    """A proper answer; ``fields`` are added to the completion."""
    return Scripted.of(200, completion(text) | fields)


def completion(text: str = "Which item?") -> dict[str, Any]:
    """The JSON of a proper answer."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": usage,
    }


def cases() -> dict[str, tuple[Scripted, str]]:
    """The small collection of replies that went wrong, by name; each with what it must give."""
    found = {}
    for case in json.loads(CASES.read_text()):
        if "base64" in case:
            body = base64.b64decode(case["base64"])
        elif "text" in case:
            body = case["text"].encode()
        else:
            body = json.dumps(case["body"]).encode()
        found[case["name"]] = Scripted(case["status"], body, case.get("headers", {})), case["must"]
    return found


class ScriptedServer(LoopbackServer):
    """Serves what ``reply`` returns for the text of a request's last message.

    Args:
        reply: called with the text, in one of the server's threads.
    """

    def __init__(self, reply: Callable[[str], Scripted]) -> None:
        self.reply = reply
        #: Replies to requests with these Authorization headers, whatever their text.
        self.reply_to: dict[str, Scripted] = {}
        #: The texts of all requests, in the order of their arrival.
        self.texts: list[str] = []
        #: Their API keys; empty where a request has none.
        self.keys: list[str] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                text = json.loads(body)["messages"][-1]["content"]
                script.keys.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
                script.texts.append(text)
                header = self.headers.get("Authorization", "")
                reply = script.reply_to.get(header) or script.reply(text)
                headers = {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(reply.body)),
                }
                self.send_response(reply.status)
                for name, value in (headers | dict(reply.headers)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 512

        super().__init__(Handler, Server)

    @property
    def base_url(self) -> str:
        """For ``llms.NAME.base_url``."""
        return f"http://{self.host}/v1"
