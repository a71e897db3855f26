"""A model hub on this machine: the addresses of the Hugging Face hub that loading a model asks."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from support.loopback import LoopbackServer


class FakeHub(LoopbackServer):
    """Serves repositories with commits and branches.

    Attributes:
        commits: for each repository, the folder of each commit.
        branches: for each repository, the commit of each branch and tag.
        asked: paths of all requests.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Path]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                self._send(*hub.reply(self.path.split("?")[0]))

            do_HEAD = do_GET

            def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)

    @property
    def endpoint(self) -> str:
        """For ``HF_ENDPOINT``."""
        return f"http://{self.host}"

    def push(self, repo: str, folder: Path, *branches: str) -> str:
        """Add a commit, to the branch main and to others; returns its id."""
        number = len(self.commits.get(repo, {}))
        commit = hashlib.sha1(f"{repo} {number}".encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = folder
        for branch in ("main", *branches):
            self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def reply(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers."""
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repo, rest = "/".join(parts[2:4]), parts[4:]
            commit = self._commit(repo, rest[1] if len(rest) > 1 else "main")
            if commit is None:
                return self._missing(repo)
            folder = self.commits[repo][commit]
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [str(file.relative_to(folder)) for file in files]
            if rest[:1] == ["tree"]:
                return self._tree(folder, names, "/".join(rest[2:]))
            about = {"id": repo, "modelId": repo, "sha": commit, "tags": [], "private": False}
            about["siblings"] = [{"rfilename": name} for name in names]
            return 200, json.dumps(about).encode(), {"Content-Type": "application/json"}
        if len(parts) >= 5 and parts[2] == "resolve":
            repo = "/".join(parts[:2])
            commit = self._commit(repo, parts[3])
            if commit is None:
                return self._missing(repo)
            file = self.commits[repo][commit] / "/".join(parts[4:])
            if not file.is_file():
                return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            body = file.read_bytes()
            etag = f'"{hashlib.sha1(body).hexdigest()}"'
            return 200, body, {"X-Repo-Commit": commit, "ETag": etag}
        return self._missing("")

    def _tree(
        self, folder: Path, names: list[str], below: str
    ) -> tuple[int, bytes, dict[str, str]]:
        if below and not any(name.startswith(f"{below}/") for name in names):
            return 404, b"{}", {"X-Error-Code": "EntryNotFound"}
        tree = [
            {
                "type": "file",
                "path": name,
                "size": (folder / name).stat().st_size,
                "oid": hashlib.sha1((folder / name).read_bytes()).hexdigest(),
            }
            for name in names
            if name.startswith(below)
        ]
        return 200, json.dumps(tree).encode(), {"Content-Type": "application/json"}

    def _commit(self, repo: str, revision: str) -> str | None:
        if revision in self.commits.get(repo, {}):
            return revision
        return self.branches.get(repo, {}).get(revision)

    def _missing(self, repo: str) -> tuple[int, bytes, dict[str, str]]:
        code = "RevisionNotFound" if repo in self.commits else "RepoNotFound"
        return 404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"}
