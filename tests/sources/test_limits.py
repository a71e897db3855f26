"""What is far larger than its file says, or than a cell can be, ends before memory or disk do."""

from __future__ import annotations

import bz2
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import REPOSITORY
from support.soak import EXAMPLES
from support.source_reading import TEXT, look, read_all, rows_of

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources import text as text_format

LONG = 200


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_format, "LONGEST_LINE", LONG)


@pytest.mark.parametrize("unit_rows", [1, 2, 10])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz", "a.jsonl.bz2"])
def test_a_line_that_is_too_long_fails_its_row_alone(
    short_lines: None, tmp_path: Path, name: str, unit_rows: int
) -> None:
    texts = ["a", "b" * 5000, "c", "d" * 300, "e"]
    lines = [json.dumps({"q": text}) for text in texts]
    if ".csv" in name:
        lines = ["q", *(f'"{text}"' for text in texts)]
    data = "".join(f"{line}\n" for line in lines).encode()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(data))
    found = look(tmp_path / name, tmp_path / "scratch", {"q": TEXT}, unit_rows)
    table = read_all(found)
    assert table["status"].to_pylist() == ["kept", "failed", "kept", "failed", "kept"]
    assert [row for row in table["q"].to_pylist() if row and len(row) == 1] == ["a", "c", "e"]
    reason = table["reason"][1].as_py()
    assert reason.startswith("source:too_long: a line of 5,0") and "200 are read at most" in reason
    assert all(len(raw or "") < 1100 for raw in table["source_raw"].to_pylist())
    assert len(table["row_id"].unique()) == 5


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.lists(
        st.text(alphabet='ab,"\n', max_size=30) | st.integers(190, 700).map(lambda n: "x" * n),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 4),
)
def test_lines_of_any_length_leave_the_other_rows_of_a_csv_alone(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], unit_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    texts = ["fine", *texts]  # a file without a row that can be read is refused
    cells = ['"' + text.replace('"', '""') + '"' for text in texts]
    (folder / "a.csv").write_text("q,n\n" + "".join(f"{c},{n}\n" for n, c in enumerate(cells)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_format, "LONGEST_LINE", LONG)
        table = read_all(look(folder / "a.csv", folder / "s", {"q": TEXT}, unit_rows))
    assert table.num_rows == len(texts)
    for (q, status), text in zip(rows_of(table, "q", "status"), texts, strict=True):
        if len(text) < 60:
            assert (q, status) == (text, "kept")
        elif len(text) > LONG:
            assert status == "failed"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_a_file_that_holds_far_more_than_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    import pyarrow as pa

    monkeypatch.setattr(text_format, "_ALWAYS_ALLOWED", 1 << 20)
    path = tmp_path / f"a.jsonl{suffix}"
    kind = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}[suffix]
    with pa.CompressedOutputStream(str(path), kind) as stream:
        stream.write(b'{"q": "a"}\n' * 150_000)
    with pytest.raises(UserError, match=rf"{path}: [\d,]+ bytes of {kind} data hold more than"):
        look(path, tmp_path / "scratch", {"q": TEXT})
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != path]
    monkeypatch.setattr(text_format, "_MOST_EXPANSION", 10**6)
    assert sum(unit.rows for unit in look(path, tmp_path / "s", {"q": TEXT}).units) == 150_000


BOMB = """
import resource, sys
from pathlib import Path
from support.source_reading import TEXT, look
from ray_pipeline.core.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    found = look(Path(sys.argv[1]), Path(sys.argv[2]), {"q": TEXT})
    print(found.malformed, end=" ")
except UserError as error:
    print("refused", end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["bomb", "line"])
def test_memory_does_not_grow_with_what_a_small_file_holds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    mebibytes = 300 if kind == "bomb" else 200
    members = [gzip.compress(text) for text in (b'{"q": "', b"x" * (1 << 20), b'"}\n{"q": "b"}\n')]
    path.write_bytes(members[0] + members[1] * mebibytes + members[2])
    environment = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    words = [sys.executable, "-c", BOMB, str(path), str(tmp_path / "scratch")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    outcome, kilobytes = done.stdout.split()
    assert outcome == ("refused" if kind == "bomb" else "1")
    assert int(kilobytes) < 200_000
