"""Subsets through the command: the run, its files, its preview, and input that cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from support.command import TESTS, Command

STAGES: dict[str, Any] = {
    "weigh-scores": {"weights": {"clarity": 0.5, "complexity": 0.5}},
    "split": {"validation": 0.2, "test": 0.1},
    "select-subsets": {
        "subsets": {"few": {"rows": 12}, "third": {"share": 0.3}, "most": {"rows": 100_000}},
        "quota": {"column": "source", "max_share": 0.4},
    },
    "write-subsets": {"shard_rows": 50},
}


def rows_of(number: int) -> list[dict[str, str]]:
    """Every tenth row is a double of another, and one has no score."""
    rows = [
        {
            "instruction": f"say {i % 90} {'again ' * (i % 4)}",
            "response": f"{i % 90} " * (i % 3 + 1),
            "source": "abcd"[i % 4],
        }
        for i in range(number)
    ]
    return [*rows, {"instruction": "What is it?", "response": "nan", "source": "a"}]


def configured(folder: Path, rows: list[dict[str, str]], **stages: Any) -> Path:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "selecting",
        "job": str(TESTS / "support" / "jobs" / "selecting.py"),
        "run_dir": str(folder / "run"),
        "unit_rows": 40,
        "seed": 3,
        "source": {"path": str(source)},
        "stages": STAGES | stages,
        "export": {"formats": []},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_run_and_its_preview(command: Command, tmp_path: Path) -> None:
    config = configured(tmp_path, rows_of(200))
    done = command("run", config)
    assert done.code == 0, done.text
    assert "where 100,000 are asked" in done.text
    assert "few 12 rows, quality from" in " ".join(done.out.split())
    run = tmp_path / "run"
    ledger = {s["name"]: s for s in json.loads((run / "ledger.json").read_text())["stages"]}
    assert ledger["weigh-scores"]["reasons"] == {"score:not_a_number": 1}
    assert ledger["select-subsets"]["kept"] == ledger["select-subsets"]["rows_in"] == 200
    assert not (run / "exports/near_duplicates.csv").exists()

    parts = sorted(run.glob("stages/06-select-subsets/rows/*.parquet"))
    rows = pa.concat_tables(pq.read_table(part) for part in parts)
    train = rows.filter(pc.equal(rows["split"], "train"))
    sides = {(r["instruction"], r["response"]): r["split"] for r in rows.to_pylist()}
    assert all(sides[r["instruction"], r["response"]] == r["split"] for r in rows.to_pylist())
    assert sorted(train["quality_rank"].to_pylist()) == list(range(train.num_rows))
    aside = rows.filter(pc.not_equal(rows["split"], "train"))
    assert aside["quality_rank"].null_count == aside["subsets"].null_count == aside.num_rows

    figures = json.loads((run / "metrics.json").read_text())["write-subsets"]
    assert figures["pool"] == train.num_rows
    validation = rows.filter(pc.equal(rows["split"], "validation"))
    for name in ("few", "third", "most", "few-random", "third-random", "most-random"):
        check_files(run, name, train, validation["row_id"].to_pylist(), figures["subsets"][name])
    assert figures["subsets"]["most"]["smaller_than_asked"]
    assert not list(run.glob("stages/07-write-subsets/work/*"))

    shown = command("preview", run, "--rows", "12", "--by", "source", "--json")
    assert shown.code == 0, shown.text
    best = train.sort_by("quality_rank").slice(0, 12)
    kept = json.loads(shown.out)
    assert kept["rows"] == 12
    assert kept["pool"] == train.num_rows
    assert kept["tokens"] == pc.sum(best["quality_tokens"]).as_py()
    assert kept["by_source"] == dict(
        sorted(
            ((s["values"], s["counts"]) for s in pc.value_counts(best["source"]).to_pylist()),
            key=lambda pair: (-pair[1], pair[0]),
        )
    )
    table = command("preview", run)
    assert all(name in table.out for name in ("few", "third", "most", "tokens"))
    for arguments in (("--rows", "3", "--share", "0.5"), ("--share", "2"), ("--by", "sauce")):
        wrong = command("preview", run, *arguments)
        assert wrong.code == 2, wrong.text
        assert "Traceback" not in wrong.text

    # Again: nothing is done; with another subset only selecting and writing are.
    assert "reused" in command("run", config).text
    subsets = {"subsets": {"other": {"quantile": 0.5}}, "controls": False}
    done = command("run", configured(tmp_path, rows_of(200), **{"select-subsets": subsets}))
    assert done.code == 0, done.text
    assert sorted(p.name for p in (run / "exports/subsets").iterdir()) == [
        "other",
        "other_scores.csv",
    ]


def check_files(
    run: Path, name: str, train: pa.Table, validation: list[str], figures: dict[str, Any]
) -> None:
    """One subset's files hold its rows, the best first, and the common validation rows."""
    held = [name in names for names in train["subsets"].to_pylist()]
    mine = train.filter(pa.array(held)).sort_by("quality_rank")
    folder = run / "exports/subsets" / name
    files = sorted(folder.glob("train-*.parquet"))
    assert len(files) == -(-mine.num_rows // 50)
    assert files[-1].name == f"train-{len(files) - 1:05d}-of-{len(files):05d}.parquet"
    table = pa.concat_tables(pq.read_table(file) for file in files)
    ids = mine["row_id"].to_pylist()
    assert table["row_id"].to_pylist() == ids
    for column in ("instruction", "response", "source", "quality", "clarity", "complexity"):
        assert table[column].equals(mine[column])
    assert "status" not in table.column_names
    saved = datasets.load_from_disk(str(folder / "dataset"))
    assert list(saved) == ["train", "validation"]
    assert saved["train"]["row_id"][:] == ids
    assert sorted(saved["validation"]["row_id"]) == sorted(validation)
    (aside,) = folder.glob("validation-*.parquet")
    assert pq.read_table(aside)["row_id"].to_pylist() == saved["validation"]["row_id"][:]
    scores = pacsv.read_csv(folder.with_name(f"{name}_scores.csv"))
    assert scores.column_names == ["idx", "score", "clarity", "complexity"]
    assert scores["idx"].to_pylist() == ids
    quality = mine["quality"].to_numpy()
    assert scores["score"].to_pylist() == pytest.approx(quality.tolist(), rel=1e-15)
    assert figures["rows"] == len(ids)
    assert figures["quality_tokens"] == pc.sum(mine["quality_tokens"]).as_py()
    assert (figures["score_min"], figures["score_max"]) == (quality.min(), quality.max())
    assert figures["score_mean"] == pytest.approx(quality.mean())
    assert figures["score_std"] == pytest.approx(quality.std())
    assert sum(figures["by_source"].values()) == len(ids)


def test_what_cannot_work_is_said_before_rows_move(command: Command, tmp_path: Path) -> None:
    for stages, message in (
        ({"weigh-scores": {"weights": {"clarity": 0.5}}}, "sum to 0.5, not to 1"),
        ({"weigh-scores": {"weights": {"clarty": 1.0}}}, "column 'clarty' is not there"),
        ({"select-subsets": {"quota": {"column": "sorce", "max_share": 0.5}}}, "'source'"),
        ({"select-subsets": {"subsets": {"few": {"row": 1}}}}, "did you mean 'rows'?"),
    ):
        for done in command.both(configured(tmp_path, rows_of(5), **stages)):
            assert done.code == 2, done.text
            assert message in done.err
    done = command("preview", tmp_path)
    assert done.code == 2
