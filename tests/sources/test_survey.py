"""Several sources: one stream of units, each with rows of one source and a stable identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.source_reading import TEXT, look, read_all, rows_of, write_csv

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.survey import SourceRequest, Survey, survey_all

ROWS = [(f"question {n}", f"answer {n}") for n in range(10)]


def survey_of(folder: Path, unit_rows: int | None = 4, **sources: Any) -> Survey:
    """Sources by name: a path, or the fields of a configuration."""
    wanted = {}
    for name, config in sources.items():
        fields = config if isinstance(config, dict) else {"path": str(config)}
        wanted[name] = SourceRequest(SourceConfig(**fields))
    return survey_all(wanted, unit_rows, str(folder / "scratch"))


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_units_and_rows_know_their_source(tmp_path: Path) -> None:
    queries = jsonl(tmp_path / "q.jsonl", {"query": "a", "n": 1}, {"query": "b", "n": 2})
    corpus = write_csv(tmp_path / "c.csv", ROWS)
    found = survey_of(tmp_path, queries=queries, corpus=corpus)
    assert found.rows_by_source == {"queries": 2, "corpus": 10}
    assert [(unit.source, unit.rows) for unit in found.units] == [
        ("queries", 2), ("corpus", 4), ("corpus", 4), ("corpus", 2),
    ]  # fmt: skip
    table = read_all(found)
    assert table.schema.names[:4] == ["source_name", "query", "n", "question"]
    assert rows_of(table, "source_name", "query", "n", "question")[1:3] == [
        ("queries", "b", 2, None),
        ("corpus", None, None, "question 0"),
    ]


def test_the_name_is_part_of_the_identity(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    both = survey_of(tmp_path, train=path, dev=path)
    assert len({unit.unit_id for unit in both.units}) == 6
    assert len(set(read_all(both)["row_id"].to_pylist())) == 20
    alone = survey_of(tmp_path, dev=path)
    assert alone.units == both.units[3:]
    # Rows of a source without a name keep the ids that they had before there were names.
    unnamed = look(path, tmp_path, unit_rows=4)
    assert not {unit.unit_id for unit in unnamed.units} & {unit.unit_id for unit in both.units}
    assert unnamed.units[0].unit_id == "ae610f70da5a9fef26b6560f05174b43"
    assert read_all(unnamed)["row_id"][0].as_py() == "3d3454e05613356faf27e3ac72225262"
    assert "source_name" not in unnamed.schema.names


def test_what_one_source_has_does_not_move_the_units_of_another(tmp_path: Path) -> None:
    corpus, queries = write_csv(tmp_path / "c.csv", ROWS), write_csv(tmp_path / "q.csv", ROWS[:3])
    before = survey_of(tmp_path, None, corpus=corpus, queries=queries)
    more = [str(queries), str(write_csv(tmp_path / "z.csv", ROWS[3:5]))]
    after = survey_of(tmp_path, None, corpus=corpus, queries={"path": more})
    assert [unit for unit in after.units if unit in before.units] == before.units
    assert len(after.units) == len(before.units) + 1


def test_a_limit_is_of_its_source(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    found = survey_of(tmp_path, train={"path": str(path), "limit": 3}, dev=path)
    assert found.rows_by_source == {"train": 3, "dev": 10}


def test_malformed_rows_of_one_source_have_a_place_in_all(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nbroken\n', encoding="utf-8")
    found = survey_of(
        tmp_path, a=tmp_path / "a.jsonl", b=jsonl(tmp_path / "b.jsonl", {"text": "c"})
    )
    assert found.malformed == 1
    assert rows_of(read_all(found), "source_name", "text", "source_raw", "status") == [
        ("a", "a", None, "kept"),
        ("a", None, "broken", "failed"),
        ("b", "c", None, "kept"),
    ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1, 2.5, pa.float64()),
        (None, 3, pa.int64()),
        ("x", None, TEXT),
        (None, None, TEXT),
        ([1], {"k": 2}, TEXT),  # JSON text in both
    ],
)
def test_one_type_for_all_sources(tmp_path: Path, a: Any, b: Any, expected: pa.DataType) -> None:
    paths = {
        name: jsonl(tmp_path / f"{name}.jsonl", {"v": value, "q": "x"})
        for name, value in (("a", a), ("b", b))
    }
    found = survey_of(tmp_path, **paths)
    assert found.schema.field("v").type == expected
    read_all(found)


@pytest.mark.parametrize(("a", "b"), [(1, "x"), ("x", [1]), (True, 1), ([1], 2.5)])
def test_types_with_nothing_in_common_are_refused(tmp_path: Path, a: Any, b: Any) -> None:
    paths = {
        name: jsonl(tmp_path / f"{name}.jsonl", {"v": value})
        for name, value in (("a", a), ("b", b))
    }
    with pytest.raises(UserError, match=r"sources\.b: the column 'v' is .*, and in sources\.a it"):
        survey_of(tmp_path, **paths)


def test_an_empty_source_is_refused_whatever_the_others_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.csv: no rows in it"):
        survey_of(
            tmp_path, a=write_csv(tmp_path / "a.csv", ROWS), b=write_csv(tmp_path / "b.csv", [])
        )
