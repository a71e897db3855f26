"""`ray-pipeline search`: one query, many queries, a stored index, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import InProcess

from ray_pipeline.models import packaged

pytestmark = pytest.mark.skipif(
    not packaged.is_fetched("all-minilm-l6-v2"), reason="model not fetched"
)
MODEL = "all-minilm-l6-v2"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    texts = ["A dragon guards its gold.", "A ship sinks in a storm.", "Two robots fall in love."]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


def test_a_query_finds_what_is_closest_and_a_file_gives_json(tmp_path: Path, corpus: Path) -> None:
    command = InProcess(tmp_path)
    index = ("--index", tmp_path / "index")
    asked = ("--query", "sailors in bad weather", "--top", "1")
    done = command("search", MODEL, corpus, *asked, *index)
    assert done.code == 0, done.text
    assert "A ship sinks" in done.out and "robots" not in done.out
    (tmp_path / "queries.txt").write_text("machines with feelings\ntreasure\n")
    stored = (tmp_path / "index/vectors.npy").stat().st_mtime_ns
    many = command("search", MODEL, corpus, "--file", tmp_path / "queries.txt", *index)
    assert many.code == 0, many.text
    first, second = (json.loads(line) for line in many.out.splitlines())
    assert first["hits"][0]["text"].startswith("Two robots") and len(second["hits"]) == 3
    assert (tmp_path / "index/vectors.npy").stat().st_mtime_ns == stored
    with corpus.open("a") as file:
        file.write('{"prompt": "Another one."}\n')
    changed = command("search", MODEL, corpus, "--query", "x", *index)
    assert changed.code == 2 and "the corpus has 4" in changed.err
    prefixed = command("search", MODEL, corpus, "--query", "x", "--query-prefix", "q: ", *index)
    assert prefixed.code == 2


def test_what_cannot_be_searched_is_refused(tmp_path: Path, corpus: Path) -> None:
    command = InProcess(tmp_path)
    for words, arguments in {
        "give either --query": (MODEL, corpus),
        "no column 'text'": (MODEL, corpus, "--query", "x", "--column", "text"),
        "is empty": (MODEL, corpus, "--query", " "),
        "is not known": ("no-such-model", corpus, "--query", "x"),
    }.items():
        refused = command("search", *arguments)
        assert refused.code == 2, refused.text
        assert words in " ".join(refused.err.split()), refused.err
