"""Which rows make which optimizer step, and which rank computes them.

A *step* is one update of the weights: its rows are the effective batch. Steps depend on the rows'
lengths, the seed and the epoch alone, so they are the same for one rank and for many, and for any
size of micro-batch. Every row is in exactly one step of an epoch; the last step of an epoch may be
smaller, and nothing is left out. With a `Budget` the rows are repeated until its tokens are spent,
and its steps are cut by tokens alone. A step is then cut into micro-batches of rows of similar
length that fit the memory, and these are dealt to the ranks.

Every rank has the whole plan, so the number of answer tokens that a step's loss is divided by needs
no communication. The position (epoch, step) is the whole state: the plan gives its exact batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash
from pydantic import Field, model_validator

from ray_pipeline.core.config import Execution, Section
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import KEPT

Ints = npt.NDArray[np.int64]
Layout = Literal["right", "left", "packed"]


class BatchConfig(Section):
    """Sizes of steps and micro-batches."""

    step_rows: int | None = Field(
        256, ge=1, description="rows per optimizer step; 32 x 8 in the original experiment"
    )
    step_tokens: int | None = Field(
        None, ge=1, description="tokens per optimizer step, instead of step_rows (set that to null)"
    )
    batch_tokens: Annotated[int, Execution] = Field(
        8192,
        ge=1,
        description="tokens per forward pass, padding included; raise it until the memory is full",
    )
    batch_rows: Annotated[int | None, Execution] = Field(
        None, ge=1, description="rows per forward pass, at most; null: no limit"
    )
    window_steps: int = Field(
        1,
        ge=1,
        description="number of steps within which rows are sorted by length: a larger window "
        "gives less padding if steps are small, but steps of rows of similar length",
    )
    layout: Layout = Field("right", description="side of the padding; packed: no padding")

    @model_validator(mode="after")
    def _one_size(self) -> BatchConfig:
        if (self.step_rows is None) == (self.step_tokens is None):
            raise ValueError("set one of step_rows and step_tokens, and the other to null")
        return self


@dataclass(frozen=True)
class Position:
    """The next step to take: ``step`` (from 0) of ``epoch`` (from 0)."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Budget:
    """The length of a training as a number of tokens, in place of epochs.

    Rows are repeated in a new order until the tokens are spent. A row belongs to the step in whose
    share of the tokens it begins, so after each of the steps every training with this budget has
    seen equally many tokens, up to one row, however long its rows are.

    Attributes:
        tokens: of all steps; a repeated row counts each time, padding does not count.
        steps: number of optimizer steps.
    """

    tokens: int
    steps: int

    @classmethod
    def of(cls, tokens: int, step_tokens: float, longest: int) -> Budget:
        """A budget in steps of about ``step_tokens`` tokens, at least those of the longest row."""
        steps = min(round(tokens / step_tokens), tokens // max(1, longest))
        return cls(tokens, max(1, steps))


@dataclass(frozen=True)
class Batch:
    """A micro-batch. All tensors of shape [rows, length]; packed: [1, tokens of all rows].

    ``attention_mask`` is None where rows are packed: transformers then separates them by
    ``position_ids``, which begin at 0 in each row.
    """

    rows: Ints
    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor
    answer_mask: torch.Tensor

    @property
    def predicted(self) -> torch.Tensor:
        """Where the next token is an answer token; bool [rows, length - 1].

        Shifted first, masked after: the last prompt token predicts the first answer token.
        """
        return self.answer_mask[:, 1:]

    @property
    def targets(self) -> torch.Tensor:
        """The answer tokens to predict, row by row; int64 [answers]."""
        return self.input_ids[:, 1:][self.predicted]

    def inputs(self) -> dict[str, torch.Tensor | None]:
        """The arguments of a causal language model of transformers."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }

    def without_answers(self) -> Batch:
        """The same batch without answer tokens, for a rank without rows that must stay in step."""
        return replace(self, answer_mask=torch.zeros_like(self.answer_mask))

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        mask = self.attention_mask
        return Batch(
            self.rows,
            self.input_ids.to(device, non_blocking=True),
            None if mask is None else mask.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.answer_mask.to(device, non_blocking=True),
        )


class TokenRows:
    """The tokens of all rows, in Arrow's memory (memory-mapped, where the table is).

    Args:
        table: ``input_ids`` (list of integers), ``answer_mask`` (list of booleans) and ``row_id``;
            where there is a ``status``, rows that are not kept are left out.

    Raises:
        UserError: no row is left.
        ValueError: a row's mask is not as long as its tokens, or it has no token.
    """

    def __init__(self, table: pa.Table) -> None:
        if "status" in table.column_names:
            table = table.filter(pc.equal(table["status"], KEPT))
        if not table.num_rows:
            raise UserError(
                "there are no rows to train on. `ray-pipeline status RUN` shows where rows were "
                "dropped, and why"
            )
        self.row_ids: pa.ChunkedArray = table["row_id"]
        ids = _lists(table["input_ids"], pa.int32())
        masks = _lists(table["answer_mask"], pa.bool_())
        self._offsets: Ints = ids.offsets.to_numpy().astype(np.int64)
        self._mask_offsets: Ints = masks.offsets.to_numpy().astype(np.int64)
        self._ids = ids.values.to_numpy(zero_copy_only=False)
        self._mask = masks.values.to_numpy(zero_copy_only=False)
        #: Tokens of each row; int64 [rows].
        self.lengths: Ints = np.diff(self._offsets)
        if not np.array_equal(self.lengths, np.diff(self._mask_offsets)) or self.lengths.min() < 1:
            raise ValueError("every row needs at least one token and a mask of the same length")
        starts, mask = self._mask_offsets[:-1], self._mask[: self._mask_offsets[-1]]
        #: Answer tokens of each row that are predicted (a row's first token never is).
        self.answer_tokens: Ints = np.add.reduceat(mask, starts, dtype=np.int64) - mask[starts]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    def ids(self, row: int) -> npt.NDArray[np.int32]:
        """A row's tokens."""
        return self._ids[self._offsets[row] : self._offsets[row + 1]]

    def mask(self, row: int) -> npt.NDArray[np.bool_]:
        """Which of a row's tokens are learnt: those of the answer."""
        return self._mask[self._mask_offsets[row] : self._mask_offsets[row + 1]]

    @cached_property
    def digest(self) -> str:
        """Identity of all rows' tokens and masks, in order."""
        hashed = xxhash.xxh3_128()
        for values in (self.lengths, self._of_rows(self._ids), self._of_rows(self._mask)):
            hashed.update(np.ascontiguousarray(values).data)
        return hashed.hexdigest()

    def _of_rows(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        offsets = self._offsets if values is self._ids else self._mask_offsets
        return values[offsets[0] : offsets[-1]]

    def batch(self, rows: Sequence[int] | Ints, layout: Layout = "right", pad: int = 0) -> Batch:
        """Rows as one micro-batch. The padding token (``pad``) has no effect on any loss."""
        return _packed(self, rows) if layout == "packed" else _padded(self, rows, layout, pad)


def _lists(column: pa.ChunkedArray, of: pa.DataType) -> pa.LargeListArray:
    cast = column.cast(pa.large_list(of)).combine_chunks()
    return cast.chunk(0) if isinstance(cast, pa.ChunkedArray) else cast


def _padded(source: TokenRows, rows: Sequence[int] | Ints, layout: Layout, pad: int) -> Batch:
    chosen = np.asarray(rows, dtype=np.int64)
    shape = (len(chosen), int(source.lengths[chosen].max()))
    ids = np.full(shape, pad, dtype=np.int64)
    attended, answers = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    for number, row in enumerate(chosen):
        length = int(source.lengths[row])
        place = slice(shape[1] - length, None) if layout == "left" else slice(length)
        ids[number, place] = source.ids(row)
        answers[number, place] = source.mask(row)
        answers[number, place.start or 0] = False
        attended[number, place] = 1
    positions = np.maximum(np.cumsum(attended, axis=1) - 1, 0)
    return Batch(chosen, *(torch.from_numpy(a) for a in (ids, attended, positions, answers)))


def _packed(source: TokenRows, rows: Sequence[int] | Ints) -> Batch:
    chosen = np.asarray(rows, dtype=np.int64)
    ids = np.concatenate([source.ids(row) for row in chosen]).astype(np.int64)
    answers = np.concatenate([source.mask(row) for row in chosen])
    positions = np.concatenate([np.arange(source.lengths[row]) for row in chosen])
    answers[positions == 0] = False  # nothing before it predicts a row's first token
    made = [torch.from_numpy(values)[None] for values in (ids, positions, answers)]
    return Batch(chosen, made[0], None, made[1], made[2])


class BatchPlan:
    """The steps of every epoch, and their micro-batches on every rank.

    Args:
        rows: the rows to train on.
        config: sizes.
        seed: of the order of rows.
        budget: makes all of its steps the first and only epoch, whatever the sizes of steps in
            ``config``; None: an epoch has each row once.

    Raises:
        UserError: a row has more tokens than a micro-batch, or a step of the budget, may hold.
    """

    def __init__(
        self,
        rows: TokenRows,
        config: BatchConfig | None = None,
        seed: int = 0,
        budget: Budget | None = None,
    ) -> None:
        self.rows = rows
        self.config = config or BatchConfig()
        self.seed = seed
        self.budget = budget
        longest = int(rows.lengths.max())
        if longest > self.config.batch_tokens:
            raise UserError(
                f"a row has {longest} tokens, and a micro-batch may hold batch_tokens = "
                f"{self.config.batch_tokens}: raise that, or lower max_tokens."
            )
        if budget is not None and budget.steps > 1 and longest * budget.steps > budget.tokens:
            raise UserError(
                f"a row has {longest} tokens, and each of {budget.steps:,} steps has "
                f"{budget.tokens / budget.steps:,.0f}: raise step_tokens, or lower max_tokens."
            )
        self._epoch = lru_cache(maxsize=2)(self._planned)

    def steps(self, epoch: int) -> int:
        """Steps of an epoch."""
        return len(self._epoch(epoch))

    def total_steps(self, epochs: int) -> int:
        """Steps of all epochs: what a learning-rate schedule needs."""
        if self.budget is not None:
            return self.budget.steps
        if self.config.step_rows is not None:
            return epochs * self.steps(0)
        return sum(self.steps(epoch) for epoch in range(epochs))

    def step_rows(self, position: Position) -> Ints:
        """The rows of a step, of all ranks."""
        return self._epoch(position.epoch)[position.step]

    def answer_tokens(self, position: Position) -> int:
        """Answer tokens of a step, of all ranks: what its loss is divided by."""
        return int(self.rows.answer_tokens[self.step_rows(position)].sum())

    def micro_batches(self, position: Position, rank: int = 0, world: int = 1) -> list[Ints]:
        """The rows of each of a rank's micro-batches of a step.

        All ranks have equally many; one is empty only where a step has fewer rows than ranks.
        """
        return self._dealt(self.step_rows(position), world)[rank]

    def batches(
        self, position: Position, rank: int = 0, world: int = 1, fill: bool = False
    ) -> Iterator[Batch]:
        """The micro-batches of `micro_batches` as tensors.

        Args:
            position: the step.
            rank: of this process.
            world: number of ranks.
            fill: replace empty micro-batches by batches without answer tokens; else they are left
                out.
        """
        return self._tensors(self.micro_batches(position, rank, world), fill)

    def following(self, position: Position) -> Position:
        """The step after this one."""
        if position.step + 1 < self.steps(position.epoch):
            return Position(position.epoch, position.step + 1)
        return Position(position.epoch + 1, 0)

    def in_order(self, rank: int = 0, world: int = 1, fill: bool = False) -> Iterator[Batch]:
        """All rows once, by length and not shuffled: for validation; ``fill`` as in `batches`."""
        return self._tensors(self._dealt(np.arange(len(self.rows)), world)[rank], fill)

    def _tensors(self, micro_batches: Iterable[Ints], fill: bool) -> Iterator[Batch]:
        for rows in micro_batches:
            if len(rows):
                yield self.rows.batch(rows, self.config.layout)
            elif fill:
                yield self.rows.batch([0], self.config.layout).without_answers()

    def real_share(self, epoch: int = 0) -> float:
        """The fraction of an epoch's tokens, on one rank, that is not padding."""
        steps = self._epoch(epoch)
        padded = sum(self._cost(rows) for step in steps for rows in self._cut(step))
        return float(sum(self.rows.lengths[step].sum() for step in steps) / padded)

    def _planned(self, epoch: int) -> list[Ints]:
        """The rows of each step of an epoch."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.rows)).astype(np.int64)
        if self.budget is not None:
            order = self._repeated(order, self.budget.tokens)
        if self.config.window_steps > 1:
            window = self._numbers(order) // self.config.window_steps
            order = order[np.lexsort((self.rows.lengths[order], window))]
        cuts = np.flatnonzero(np.diff(self._numbers(order))) + 1
        steps = np.split(order, cuts)
        if self.config.window_steps > 1:
            steps = _shuffled_within(steps, self.config.window_steps, random)
        return steps

    def _repeated(self, first: Ints, tokens: int) -> Ints:
        """Rows in the order of the first pass and of further ones, until the tokens are reached."""
        passes = -(-tokens // int(self.rows.lengths.sum()))
        further = [
            np.random.default_rng([self.seed, number]).permutation(len(first)).astype(np.int64)
            for number in range(1, passes)
        ]
        order = np.concatenate([first, *further])
        return order[self._tokens_before(order) < tokens]

    def _numbers(self, order: Ints) -> Ints:
        """The number of the step of each row of an order, from 0."""
        if self.budget is not None:
            return self._tokens_before(order) * self.budget.steps // self.budget.tokens
        if self.config.step_rows is not None:
            return np.arange(len(order)) // self.config.step_rows
        return self._tokens_before(order) // (self.config.step_tokens or 1)

    def _tokens_before(self, order: Ints) -> Ints:
        """The tokens before each row of an order."""
        lengths = self.rows.lengths[order]
        return np.cumsum(lengths) - lengths

    def _dealt(self, rows: Ints, world: int) -> list[list[Ints]]:
        """A step's micro-batches by rank: equally many, and about equally much work."""
        batches = self._cut(rows)
        while len(batches) % world:
            widest = max(batches, key=lambda batch: (len(batch) > 1, self._cost(batch)))
            if len(widest) == 1:
                break
            at = next(i for i, batch in enumerate(batches) if batch is widest)
            half = (len(widest) + 1) // 2
            batches[at : at + 1] = [widest[:half], widest[half:]]
        batches.sort(key=self._cost, reverse=True)
        batches += [np.empty(0, dtype=np.int64)] * (-len(batches) % world)
        # Back and forth (0 1 1 0 0 1 ...), so that no rank always gets the larger batch.
        rounds = [batches[i : i + world] for i in range(0, len(batches), world)]
        turned = [each if i % 2 == 0 else each[::-1] for i, each in enumerate(rounds)]
        return [[each[rank] for each in turned] for rank in range(world)]

    def _cut(self, rows: Ints) -> list[Ints]:
        """Rows sorted by length, the longest first, in micro-batches that fit."""
        lengths = self.rows.lengths
        order = rows[np.lexsort((rows, -lengths[rows]))]
        running = np.cumsum(lengths[order])
        batches, start = [], 0
        while start < len(order):
            if self.config.layout == "packed":
                before = running[start - 1] if start else 0
                end = np.searchsorted(running, before + self.config.batch_tokens, side="right")
            else:
                end = start + self.config.batch_tokens // int(lengths[order[start]])
            end = min(int(end), start + (self.config.batch_rows or len(order)))
            batches.append(order[start:end])
            start = end
        return batches

    def _cost(self, rows: Ints) -> int:
        """Tokens of a micro-batch, padding included."""
        if not len(rows):
            return 0
        lengths = self.rows.lengths[rows]
        packed = self.config.layout == "packed"
        return int(lengths.sum() if packed else lengths.max() * len(rows))


def _shuffled_within(steps: list[Ints], size: int, random: Any) -> list[Ints]:
    """The steps of each window in a random order: sorted ones would go from short to long."""
    shuffled: list[Ints] = []
    for start in range(0, len(steps), size):
        window = steps[start : start + size]
        shuffled += [window[i] for i in random.permutation(len(window))]
    return shuffled
