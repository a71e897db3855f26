"""Hub ids: the commit that they stand for, and that it is what is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_hub import FakeHub

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.hub import at_commit, commit_of
from ray_pipeline.rundir.pinned import PinnedModels

REPO = "someone/some-model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub, and an empty cache."""
    with FakeHub() as server:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def model(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"content": content}))
    return folder


def record(storage: Storage, pinned: PinnedModels) -> None:
    """As `engine.run` does."""
    about = {"seed": 1, "models": pinned.identities}
    storage.write_bytes("environment.json", json.dumps(about).encode())


def test_a_name_means_one_commit_for_as_long_as_the_run_directory_lives(
    hub: FakeHub, tmp_path: Path
) -> None:
    first = hub.push(REPO, model(tmp_path / "1", "old"), "v1")
    storage = Storage(str(tmp_path / "run"))
    pinned = PinnedModels(storage)
    assert pinned.resolve(REPO, "embedder.model") == (f"{REPO}@{first}",) * 2
    record(storage, pinned)

    second = hub.push(REPO, model(tmp_path / "2", "new"))
    again = PinnedModels(storage)
    assert again.resolve(REPO, "embedder.model") == (f"{REPO}@{first}",) * 2
    # What is named for the first time, and a new directory, get the newest.
    assert again.resolve(f"{REPO}@main", "x")[1] == f"{REPO}@{second}"
    assert again.resolve(REPO, "x", revision="v1")[1] == f"{REPO}@{first}"
    assert (
        PinnedModels(Storage(str(tmp_path / "other"))).resolve(REPO, "x")[1] == f"{REPO}@{second}"
    )
    record(storage, again)
    assert PinnedModels(storage).identities == {
        REPO: f"{REPO}@{first}",
        f"{REPO}@main": f"{REPO}@{second}",
        f"{REPO}@v1": f"{REPO}@{first}",
    }


def test_a_run_from_before_keeps_the_identity_that_it_had(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.push(REPO, model(tmp_path / "1", "x"), "v1")
    storage = Storage(str(tmp_path / "run"))
    storage.write_bytes("environment.json", b'{"seed": 1, "packages": {}}')
    config = f"llms: {{a: {{model: {REPO}, revision: v1}}}}\nstages: {{x: {{tokenizer: a/b}}}}\n"
    storage.write_bytes("config.yaml", config.encode())
    pinned = PinnedModels(storage)
    assert pinned.resolve(REPO, "llms.a.model", revision="v1") == (REPO, REPO)
    assert pinned.resolve(REPO, "x") == (REPO, REPO)
    assert pinned.resolve(f"{REPO}@v1", "x")[1] == f"{REPO}@{commit}"  # it did not name this one
    record(storage, pinned)
    later = PinnedModels(storage)
    assert later.resolve(REPO, "x") == (REPO, REPO)
    assert later.identities["a/b"] == "a/b"


def test_without_the_hub_the_commit_in_the_cache_counts(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.push(REPO, model(tmp_path / "1", "old"))
    cached = tmp_path / "cache" / "models--someone--some-model"
    (cached / "snapshots" / first).mkdir(parents=True)
    (cached / "snapshots" / first / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(first)
    second = hub.push(REPO, model(tmp_path / "2", "new"))
    assert commit_of(REPO, None) == second
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert commit_of(REPO, None) == first
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert commit_of(REPO, None) == commit_of(REPO, "main") == commit_of(REPO, first) == first
    pinned = PinnedModels(Storage(str(tmp_path / "run")))
    assert pinned.resolve(REPO, "x") == (f"{REPO}@{first}",) * 2
    # A commit that is not there is not replaced by another.
    with pytest.raises(UserError, match=r"x: model .* not in the local cache .*HF_HUB_OFFLINE"):
        pinned.resolve(f"{REPO}@{second}", "x")


def test_what_the_hub_does_not_have_is_said(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(REPO, model(tmp_path / "1", "x"))
    pinned = PinnedModels(Storage(str(tmp_path / "run")))
    for name, revision in (("someone/else", None), (f"{REPO}@v9", None), (REPO, "v9")):
        with pytest.raises(UserError, match=r"llms\.a\.model: the hub has no model"):
            pinned.resolve(name, "llms.a.model", revision)


def test_a_commit_is_split_off_for_the_libraries(tmp_path: Path) -> None:
    assert at_commit("org/name@abc") == ("org/name", {"revision": "abc"})
    assert at_commit("org/name") == ("org/name", {})
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert at_commit(str(folder)) == (str(folder), {})


SCRIPT = """
import sys
from ray_pipeline.models.packaged import pinned
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.train.student import load

name, push = sys.argv[1], sys.argv[2]
model = pinned(name)
import urllib.request
urllib.request.urlopen(push).read()  # the hub moves on
assert pinned(name) != model
print(len(load_tokenizer(model)), load(model).get_input_embeddings().weight.shape[1])
print(load(pinned(name)).get_input_embeddings().weight.shape[1])
"""


def test_the_libraries_load_the_commit_and_not_the_branch(tmp_path: Path) -> None:
    from support.tiny_models import tiny_model, word_tokenizer

    from ray_pipeline.train.student import save

    tokenizer = word_tokenizer()
    folders = [
        save(tiny_model(hidden_size=size), tokenizer, tmp_path / str(size)) for size in (32, 64)
    ]
    with FakeHub() as hub:
        hub.push(REPO, folders[0])
        answer = hub.reply

        def reply(path: str) -> tuple[int, bytes, dict[str, str]]:
            if path == "/push":
                hub.push(REPO, folders[1])
                return 200, b"", {}
            return answer(path)

        hub.reply = reply  # type: ignore[method-assign]
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, REPO, f"{hub.endpoint}/push"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(tokenizer)), "32", "64"]
