"""A new format is one class and one line: a format made here is read like those that are there."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from support.source_reading import TEXT, look, read_all, rows_of

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.columns import Column
from ray_pipeline.sources.find import FORMATS
from ray_pipeline.sources.format import FileSpec
from ray_pipeline.sources.text import Record, TextFacts, TextFormat, TextScan


class Pairs(TextFormat):
    """``question = answer``, one a line."""

    name = "pairs"
    expected = "pairs"

    def scan_text(self, scan: TextScan) -> TextFacts:
        columns = dict.fromkeys(("question", "answer"), Column(frozenset({"text"})))
        chosen = scan.options.choose(list(columns), columns, self, scan.uri)
        scan.count(self.records(scan.stream, scan.encoding, 0))
        return TextFacts(columns, chosen, scan.encoding)

    def records(self, stream: BinaryIO, layout: str, start: int) -> Iterator[Record]:
        for line in stream:
            text = line.decode(layout).rstrip("\n")
            question, mark, answer = text.partition(" = ")
            if mark:
                yield Record(start, (question, answer))
            else:
                yield Record(start, (question, None), "source:pairs: no ' = ' in it", text)
            start += len(line)

    def values(self, records: Sequence[Record], file: FileSpec) -> Mapping[str, Sequence[Any]]:
        return {
            "question": [record.cells[0] for record in records],
            "answer": [record.cells[1] for record in records],
        }


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ".pairs", Pairs())


LINES = "Who? = Ada\nWhen?\nWhere? = London = England\nWhat? = ü\n"


@pytest.mark.parametrize("unit_rows", [1, 3, None])
def test_a_format_of_ones_own(tmp_path: Path, unit_rows: int | None) -> None:
    (tmp_path / "a.pairs").write_text(LINES, encoding="utf-8")
    found = look(tmp_path / "a.pairs", tmp_path, {"question": TEXT}, unit_rows)
    assert {unit.format for unit in found.units} == {"pairs"}
    assert found.malformed == 1
    assert rows_of(read_all(found), "question", "answer", "status", "reason", "source_raw") == [
        ("Who?", "Ada", "kept", None, None),
        ("When?", None, "failed", "source:pairs: no ' = ' in it", "When?"),
        ("Where?", "London = England", "kept", None, None),
        ("What?", "ü", "kept", None, None),
    ]


def test_it_is_compressed_recoded_limited_and_put_together_with_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.pairs.gz").write_bytes(gzip.compress(LINES.encode("utf-16")))
    (folder / "b.csv").write_text("question,answer\nMore?,yes\n", encoding="utf-16")
    found = look(folder, tmp_path / "scratch", unit_rows=3, encoding="utf-16")
    assert [unit.rows for unit in found.units] == [3, 1, 1]
    assert read_all(found)["question"].to_pylist()[3:] == ["What?", "More?"]
    assert look(folder, tmp_path / "scratch", encoding="utf-16", limit=2).rows == 2


def test_it_is_refused_as_the_others_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pairs"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.pairs: expected pairs, found an empty file"):
        look(path, tmp_path)
    path.write_text(LINES, encoding="utf-8")
    with pytest.raises(UserError, match="column 'label' is not there; columns: question, answer"):
        look(path, tmp_path, {"label": TEXT})
    (tmp_path / "a.unknown").write_text(LINES, encoding="utf-8")
    with pytest.raises(UserError, match=r"known: \.csv .* \.pairs, and"):
        look(tmp_path / "a.unknown", tmp_path)
