"""The subsets as files: Parquet, Hugging Face datasets, and the scores beside them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from ray_pipeline.core.durable_files import replace_folder
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import ENVELOPE_COLUMNS
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, StageConfig, Workplace
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.subsets.config import SelectSubsetsConfig
from ray_pipeline.stages.subsets.files import (
    InOrder,
    SubsetWriter,
    arrow_stream,
    arrow_to_parquet,
    count_names,
    held_by,
    plain,
    save_dataset,
)
from ray_pipeline.stages.subsets.select import TRAIN, SelectSubsets

FOLDER = "exports/subsets"
#: Columns that are not the user's: of the envelope, and those that are for later stages alone.
_NOT_WRITTEN = {*ENVELOPE_COLUMNS, "input_ids", "answer_mask", "embedding"} - {"row_id"}
#: The columns of the original experiment in a file of scores, after ``idx`` and ``score``.
_DIMENSIONS = ("clarity", "response_quality", "diversity", "complexity")


class WriteSubsets(ArtifactStage):
    """Writes each subset and control, the best row first, with the common validation rows.

    The files are ``exports/subsets/NAME/train-*.parquet`` and ``validation-*.parquet``, the same
    rows as a Hugging Face dataset in ``NAME/dataset``, and ``NAME_scores.csv``. Rows are sorted on
    disk, not in memory.
    """

    name = "write-subsets"
    writes_datasets = True
    needs_stages = (SelectSubsets,)
    reads = {
        "quality": pa.float64(),
        "split": pa.string(),
        "quality_rank": pa.int64(),
        "subsets": pa.list_(pa.string()),
    }

    class Config(StageConfig):
        shard_rows: int = Field(250_000, ge=1, description="rows per Parquet file")

    config: Config

    @property
    def makes(self) -> Sequence[str]:
        """Scores and dataset of each subset and control."""
        return [
            f"{FOLDER}/{name}{end}"
            for name, _, _ in self._selection.names()
            for end in ("_scores.csv", "/dataset/dataset_dict.json")
        ]

    @property
    def _selection(self) -> SelectSubsetsConfig:
        return self.stage_of(SelectSubsets).config

    def make(self, rows: StoredRows, place: Workplace) -> dict[str, Any]:
        """Write all subsets and controls again, ignoring files of an earlier attempt."""
        try:
            with _scratch(place) as scratch:
                figures = _Work(self, rows, place, scratch).make()
                _publish(scratch / "subsets", place.storage)
        except OSError as error:
            raise RunError(f"the subsets cannot be written: {error}") from error
        return figures

    def score_columns(self, there: list[str]) -> dict[str, str]:
        """Columns of a file of scores: name in the file → column of the run."""
        weigh = self.find_stage(WeighScores)
        weighed = () if weigh is None else weigh.config.weights
        scores = [name for name in dict.fromkeys([*_DIMENSIONS, *weighed]) if name in there]
        return {"idx": "row_id", "score": "quality", **{name: name for name in scores}}

    @property
    def source_column(self) -> str:
        """The column that says where a row comes from."""
        quota = self._selection.quota
        return "source" if quota is None else quota.column


class _Work:
    """State of writing all subsets once."""

    def __init__(
        self, stage: WriteSubsets, rows: StoredRows, place: Workplace, scratch: Path
    ) -> None:
        self._stage, self._rows, self._place, self._scratch = stage, rows, place, scratch
        self._selection = stage._selection
        self._names = [name for name, _, _ in self._selection.names()]
        there = _schema(rows).names
        self._columns = [name for name in there if name not in _NOT_WRITTEN]
        self._tokens = "input_ids" if "input_ids" in there else None
        self._scores = stage.score_columns(there)
        self._ordered = InOrder(scratch / "rows", "quality_rank")
        self._counts: Counter[str] = Counter()
        self._pool = self._validation_rows = 0
        self._highest: float | None = None

    def make(self) -> dict[str, Any]:
        validation = self._scratch / "validation.arrow"
        self._sort_out(validation)
        self._check()
        folder = self._scratch / "validation"
        shard_rows = self._stage.config.shard_rows
        arrow_to_parquet(validation, folder, "validation", self._validation_rows, shard_rows)
        writers = self._write()
        for name in self._names:
            own = self._scratch / "subsets" / name
            for path in folder.iterdir():
                shutil.copyfile(path, own / path.name)
            arrow = self._arrow(name)
            save_dataset(own / "dataset", {"train": arrow, "validation": validation})
            arrow.unlink()
        figures = {"pool": self._pool, "validation_rows": self._validation_rows}
        return {**figures, "subsets": self._figures(writers)}

    def _sort_out(self, validation: Path) -> None:
        """The rows of subsets to where they are sorted, and the validation rows to a file."""
        read = [*self._columns, *([self._tokens] if self._tokens else [])]
        stream = None
        for table in map(plain, self._rows.tables(read)):
            aside = table.filter(pc.equal(table["split"], "validation")).select(self._columns)
            if stream is None:
                stream = arrow_stream(validation, aside.schema)
            stream.write_table(aside)
            self._validation_rows += aside.num_rows
            pool = table.filter(pc.equal(table["split"], TRAIN))
            self._pool += pool.num_rows
            best = pc.max(pool["quality"]).as_py()
            if best is not None:
                self._highest = best if self._highest is None else max(best, self._highest)
            self._counts += count_names(pool["subsets"], self._names)
            chosen = pool.filter(pc.greater(pc.list_value_length(pool["subsets"]), 0))
            if self._tokens:
                tokens = pc.list_value_length(chosen[self._tokens]).cast(pa.int64())
                chosen = chosen.drop_columns([self._tokens]).append_column("tokens ", tokens)
            if chosen.num_rows:
                self._ordered.add(chosen)
        if stream is None:
            raise RunError("the run has no parts")
        stream.close()

    def _check(self) -> None:
        """Report subsets that are smaller than requested; raise an error for empty ones."""
        if not self._pool:
            raise RunError(
                "no row is left to train on: none of those that came through has split "
                f"{TRAIN!r}; `ray-pipeline status` says where the others left"
            )
        for name in self._selection.subsets:
            if not self._counts[name]:
                raise RunError(
                    f"stages.{SelectSubsets.name}.subsets.{name}: no row is in it: of "
                    f"{self._pool:,} rows the best has quality {self._highest:.6g}; "
                    "`ray-pipeline preview RUN` shows what a threshold keeps"
                )
            if (asked := self._requested_rows(name)) is not None:
                why = f"there are {self._pool:,} rows to train on"
                if self._pool >= asked:
                    why = "the quota leaves no more"
                elif self._counts[name] == self._pool:
                    why += ", and it takes all"
                few = f"{self._counts[name]:,} rows, where {asked:,} are asked"
                self._place.say(f"  {name}: {few}: {why}")

    def _requested_rows(self, name: str) -> int | None:
        """The rows that a subset should have, if it has fewer; else None."""
        subset = self._selection.subsets[name]
        if subset.is_threshold:
            return None
        asked = subset.rows or subset.of(self._pool)
        return asked if asked > self._counts[name] else None

    def _write(self) -> dict[str, SubsetWriter]:
        """Pass the rows, in order, to the files of the subsets that hold them."""
        (self._scratch / "subsets").mkdir()
        writers = {
            name: SubsetWriter(
                self._scratch / "subsets" / name,
                self._arrow(name),
                self._counts[name],
                self._stage.config.shard_rows,
                self._scores,
            )
            for name in self._names
        }
        for table in self._ordered.tables():
            for name, writer in writers.items():
                mine = table.filter(held_by(table, name))
                self._note(writer, mine)
                writer.add(mine.select(self._columns))
        for writer in writers.values():
            writer.close()
        return writers

    def _note(self, writer: SubsetWriter, rows: pa.Table) -> None:
        figures = writer.figures
        figures.add(rows["quality"].to_numpy())
        for column, name in (("tokens ", "tokens"), ("quality_tokens", "quality_tokens")):
            if column in rows.column_names:
                figures.tokens[name] += pc.sum(rows[column]).as_py() or 0
        if self._stage.source_column in rows.column_names:
            figures.add_sources(rows[self._stage.source_column])

    def _arrow(self, name: str) -> Path:
        return self._scratch / f"{name}.train.arrow"

    def _figures(self, writers: Mapping[str, SubsetWriter]) -> dict[str, Any]:
        figures = {}
        for name, of, kind in self._selection.names():
            asked = self._selection.subsets[of].model_dump(exclude_none=True)
            one = {"of": of, "control": kind == "control", "asked": asked}
            figures[name] = {**one, **writers[name].figures.as_json()}
            figures[name]["smaller_than_asked"] = self._requested_rows(of) is not None
        return figures


def _schema(rows: StoredRows) -> pa.Schema:
    if not rows.paths:
        raise RunError("the run has no parts")
    try:
        with rows.storage.open(rows.paths[0]) as file:
            return pq.read_schema(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"cannot read {rows.storage.uri(rows.paths[0])}: {error}") from error


@contextlib.contextmanager
def _scratch(place: Workplace) -> Iterator[Path]:
    """An empty folder of this machine: in the run directory, where that is local."""
    if not place.storage.is_local:
        with tempfile.TemporaryDirectory(prefix="ray-pipeline-subsets-") as temporary:
            yield Path(temporary)
        return
    folder = place.storage.local_path(f"{place.folder}/subsets")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed attempt
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, storage: Storage) -> None:
    """Put the finished files under ``exports``, instead of what an earlier run left there."""
    storage.delete_folder(FOLDER)
    if storage.is_local:
        replace_folder(folder, storage.local_path(FOLDER))
        return
    # The files that say that a subset is complete come last.
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == "dataset_dict.json"):
        relative = path.relative_to(folder).as_posix()
        with storage.writer(f"{FOLDER}/{relative}") as stream, path.open("rb") as file:
            shutil.copyfileobj(file, stream, 2**24)
