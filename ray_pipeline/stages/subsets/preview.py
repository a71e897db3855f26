"""Preview of a threshold: which of a run's scored rows it keeps, without writing anything.

Exact, ties included, and flat in memory: the place where the subset ends is found digit by digit in
the rows' keys (a histogram of 65,536 bins for each two bytes of score, text hash and row id), in
passes over the columns that they need. Most thresholds need the scores alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import KEPT
from ray_pipeline.rundir.reader import RunReader, SegmentFolder
from ray_pipeline.stages.subsets.config import SelectSubsetsConfig, Subset
from ray_pipeline.stages.subsets.files import ScoreFigures
from ray_pipeline.stages.subsets.order import descending
from ray_pipeline.stages.subsets.select import TEXTS, TRAIN, content_hashes

_SCORE = "quality"
_TOKENS = "quality_tokens"
#: Two-byte digits of a row's key: of its score, then of the hash of its text, then of its id.
_SCORE_DIGITS = _HASH_DIGITS = 4
_BINS = 1 << 16

Digits = npt.NDArray[np.uint16]


@dataclass
class Preview:
    """What a subset would keep.

    Attributes:
        pool: number of rows to choose from.
        kept: figures of the kept rows; their ``sources`` count rows by the column ``by``.
        pool_tokens: tokens of all rows of the pool; None if the run did not count tokens.
        by: the column that rows are counted by; None if none was asked for.
        is_split: whether the run has already split its rows; the pool is then the training split.
        short_of: number of requested rows that the pool does not have.
        pool_sources: number of rows of the pool by the values of ``by``.
    """

    pool: int
    kept: ScoreFigures
    pool_tokens: int | None
    by: str | None
    is_split: bool
    short_of: int = 0
    pool_sources: Counter[str] = field(default_factory=Counter)


def preview(reader: RunReader, subset: Subset, by: str | None = None) -> Preview:
    """Compute what ``subset`` would keep.

    Args:
        reader: a run that has scored rows.
        subset: a size or a threshold.
        by: a column to count the kept rows by.

    Raises:
        UserError: the run has no scores, or no such column.
    """
    rows = _ScoredRows(reader, by)
    pool = sum(len(scores) for scores in rows.scores())
    if not pool:
        raise UserError(f"{reader.storage.uri()}: no row with a score is kept")
    end = _end(rows, subset, pool)
    found = Preview(pool, ScoreFigures(), 0 if rows.has_tokens else None, by, rows.is_split)
    for table in rows.tables(needs_ids=end.needs_ids):
        _add(found, table, end.keeps(table))
    asked = subset.rows or 0
    found.short_of = max(0, asked - pool)
    return found


def _add(found: Preview, table: pa.Table, keeps: npt.NDArray[np.bool_]) -> None:
    kept = table.filter(pa.array(keeps))
    found.kept.add(kept[_SCORE].to_numpy())
    if found.pool_tokens is not None:
        found.pool_tokens += pc.sum(table[_TOKENS]).as_py() or 0
        found.kept.tokens["tokens"] += pc.sum(kept[_TOKENS]).as_py() or 0
    if found.by is not None:
        found.kept.add_sources(kept[found.by])
        for one in pc.value_counts(table[found.by]).to_pylist():
            found.pool_sources[str(one["values"])] += one["counts"]


class _ScoredRows:
    """The rows of a run that a selection chooses from, part by part."""

    def __init__(self, reader: RunReader, by: str | None) -> None:
        self._reader = reader
        self._segment, names = _scored(reader)
        if by is not None and by not in names:
            raise UserError(f"--by {by}: the rows have no such column{nearest(by, names)}")
        self._by = by
        self.is_split = "split" in names
        self.has_tokens = _TOKENS in names

    def scores(self) -> Iterator[npt.NDArray[np.float64]]:
        """The scores alone."""
        for table in self._read([_SCORE]):
            yield table[_SCORE].to_numpy()

    def tables(self, needs_ids: bool) -> Iterator[pa.Table]:
        """The columns to count, with those that break ties if necessary."""
        columns = [_SCORE, *([_TOKENS] * self.has_tokens), *([self._by] if self._by else [])]
        yield from self._read([*columns, *([*TEXTS, "row_id"] if needs_ids else [])])

    def _read(self, columns: list[str]) -> Iterator[pa.Table]:
        read = list(dict.fromkeys([*columns, "status", *(["split"] * self.is_split)]))
        for _, table in self._reader.each_unit(self._segment, read):
            rows = table.filter(pc.equal(table["status"], KEPT))
            if self.is_split:
                rows = rows.filter(pc.equal(rows["split"], TRAIN))
            finite = pc.fill_null(pc.is_finite(rows[_SCORE].cast(pa.float64())), False)
            yield rows.filter(finite)


def _scored(reader: RunReader) -> tuple[SegmentFolder, list[str]]:
    """The last segment with scores, and its columns."""
    for segment in reversed(reader.segments):
        names = reader.schema(segment).names
        if _SCORE in names:
            return segment, names
    raise UserError(
        f"{reader.storage.uri()}: no stage of the run has given its rows a {_SCORE!r} yet; "
        "run it until weigh-scores first"
    )


@dataclass(frozen=True)
class _End:
    """The first digits of the last kept key: enough of them to separate it from the next key."""

    last: tuple[int, ...]

    @property
    def needs_ids(self) -> bool:
        """Whether ties of the score must be broken."""
        return len(self.last) > _SCORE_DIGITS

    def keeps(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Mask of the rows whose key is at most the last kept key."""
        keeps = np.zeros(table.num_rows, bool)
        open_ = np.ones(table.num_rows, bool)
        for digits, last in zip(_digits(table, len(self.last)), self.last, strict=False):
            keeps |= open_ & (digits < last)
            open_ &= digits == last
        return keeps | open_


def _digits(table: pa.Table, number: int) -> Iterator[Digits]:
    """The first digits of each row's key: smaller keys are better rows."""
    columns = [_bytes(descending(table[_SCORE].cast(pa.float64()).to_numpy()))]
    if number > _SCORE_DIGITS:
        columns.append(_bytes(content_hashes(table)))
    if number > _SCORE_DIGITS + _HASH_DIGITS:
        columns.append(_text_digits(table["row_id"], number - _SCORE_DIGITS - _HASH_DIGITS))
    digits = np.concatenate(columns, axis=1)[:, :number]
    yield from digits.T


def _bytes(keys: npt.NDArray[np.uint64]) -> Digits:
    return keys.astype(">u8").view(">u2").astype(np.uint16).reshape(-1, 4)


def _text_digits(texts: pa.ChunkedArray, number: int) -> Digits:
    """Each text as digits of two bytes; shorter texts are padded with zeros."""
    cells = np.array([text.encode()[: 2 * number] for text in texts.to_pylist()], f"S{2 * number}")
    return cells.view(">u2").astype(np.uint16).reshape(-1, number)


def _end(rows: _ScoredRows, subset: Subset, pool: int) -> _End:
    """The last kept key: of a threshold including ties, else of a number of rows."""
    if subset.min_score is not None:
        key = descending(np.array([subset.min_score]))
        return _End(tuple(_bytes(key)[0].tolist()))
    if subset.quantile is not None:
        return _search(rows, subset.last_rank(pool) + 1, _SCORE_DIGITS)
    return _search(rows, subset.of(pool), None)


def _search(rows: _ScoredRows, number: int, most: int | None) -> _End:
    """The key of the ``number``-th best row, digit by digit, until all rows with it are kept.

    Args:
        rows: to look at, once for each digit.
        number: from 1.
        most: maximum number of digits to compare; None: no limit.
    """
    last: tuple[int, ...] = ()
    while most is None or len(last) < most:
        bins = np.zeros(_BINS, np.int64)
        for table in rows.tables(needs_ids=len(last) >= _SCORE_DIGITS):
            digits = list(_digits(table, len(last) + 1))
            open_ = np.ones(table.num_rows, bool)
            for one, value in zip(digits, last, strict=False):
                open_ &= one == value
            bins += np.bincount(digits[-1][open_], minlength=_BINS)
        up_to = np.cumsum(bins)
        digit = int(np.searchsorted(up_to, number))
        last = (*last, digit)
        number -= int(up_to[digit] - bins[digit])
        if number == bins[digit] and most is None:
            break
    return _End(last)


def subsets_asked(reader: RunReader, measures: Mapping[str, float | None]) -> dict[str, Subset]:
    """The subset that one measure describes, or those that the run's configuration names.

    Args:
        reader: the run.
        measures: ``min_score``, ``share``, ``rows`` or ``quantile``, each None where not given.

    Raises:
        UserError: two measures are given, or one has an impossible value.
    """
    given = {name: value for name, value in measures.items() if value is not None}
    try:
        if given:
            name = " ".join(f"{name.replace('_', '-')} {value:g}" for name, value in given.items())
            return {name: Subset.model_validate(given)}
        stages = reader.config.get("stages") or {}
        return SelectSubsetsConfig.model_validate(stages.get("select-subsets") or {}).subsets
    except ValidationError as error:
        wrong = error.errors()[0]
        where = "".join(f"--{str(part).replace('_', '-')}: " for part in wrong["loc"])
        raise UserError(where + wrong["msg"].removeprefix("Value error, ")) from None
