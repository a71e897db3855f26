"""The corpora: compressed prompts up to a length, as CSV files, each cut into train and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from ray_pipeline.core.file_names import name_fault
from ray_pipeline.core.rows import kept, set_column
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.compression.measure import AfterMeasuring

_COLUMNS = ("prompt", "compressed_prompt", "prompt_tokens", "compressed_tokens", "tokenizer")


class WriteCorpora(AfterMeasuring, MapStage):
    """Writes the corpora under ``exports/``, named as in the original experiment.

    All compressed prompts, those of at most 128 tokens (short), and of at most 64 (very short);
    the latter two also by split. It is the original prompt whose tokens are limited; its
    compression never has more. Prompts with variants are in a file of their own (``-v2``).

    Writes ``corpus``: ``very_short``, ``short`` or ``long``, the smallest one that holds the row.
    """

    name = "write-corpora"
    writes = {"corpus": pa.string()}

    class Config(StageConfig):
        dataset: str = Field(
            "dolly", description="first part of the names of the files: that of the source"
        )
        abbreviation: str = Field(
            "d", description="first letters of the names of the files of the splits: `d` is `dsp-…`"
        )
        short_tokens: int = Field(
            128, ge=1, description="tokens that a prompt of the short corpus has at most"
        )
        very_short_tokens: int = Field(
            64, ge=1, description="tokens that a prompt of the very short corpus has at most"
        )

        @model_validator(mode="after")
        def _in_order(self) -> WriteCorpora.Config:
            if self.very_short_tokens > self.short_tokens:
                raise ValueError("very_short_tokens must not be above short_tokens")
            for part in (self.dataset, self.abbreviation):
                if (fault := name_fault(part)) is not None:
                    raise ValueError(f"{part!r} would be part of a file's name: {fault}")
            return self

    config: Config

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns of the files."""
        texts = dict.fromkeys(("prompt", "compressed_prompt", "tokenizer", SPLIT), pa.string())
        return texts | dict.fromkeys(("prompt_tokens", "compressed_tokens"), pa.int64())

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Say which corpus each row belongs to."""
        config = self.config
        tokens = rows["prompt_tokens"]
        corpus = pc.case_when(
            pc.make_struct(
                pc.less_equal(tokens, config.very_short_tokens),
                pc.less_equal(tokens, config.short_tokens),
            ),
            "very_short",
            "short",
            "long",
        )
        splits = zip(corpus.to_pylist(), rows[SPLIT].to_pylist(), strict=True)
        counts.update(f"{name}, {split}" for name, split in splits)
        return set_column(rows, "corpus", corpus)

    def exports(self) -> Mapping[str, Callable[[pa.Table], pa.Table]]:
        """The files, and the rows of each."""
        name, first = self.config.dataset, self.config.abbreviation
        end = "prompt-compression"
        files: dict[str, Callable[[pa.Table], pa.Table]] = {
            f"{name}-{end}.csv": partial(_chosen, corpora=("very_short", "short", "long")),
            f"{name}-{end}-v2.csv": self._with_variants,
        }
        corpora = {"short": ("sp", ("very_short", "short")), "very-short": ("vsp", ("very_short",))}
        for title, (letters, corpora_of) in corpora.items():
            files[f"{name}-{title}-{end}.csv"] = partial(_chosen, corpora=corpora_of)
            for split in ("train", "validation", "test"):
                chosen = partial(_chosen, corpora=corpora_of, split=split)
                files[f"{first}{letters}-{split}.csv"] = chosen
        return files

    def _with_variants(self, rows: pa.Table) -> pa.Table:
        """The rows that the variant pass had a usable answer for."""
        rows = kept(rows)
        if "variant_1" not in rows.column_names:
            empty = pa.nulls(rows.num_rows, pa.string())
            for name in ("variant_1", "variant_2", "variant_compressed"):
                rows = rows.append_column(name, empty)
        rows = rows.filter(pc.is_valid(rows["variant_1"]))
        compressed = rows["variant_compressed"]
        tokens = [self.count(text) for text in compressed.to_pylist()]
        columns = {name: rows[name] for name in ("row_id", "prompt", "variant_1", "variant_2")}
        columns |= {"compressed_prompt": compressed, "prompt_tokens": rows["prompt_tokens"]}
        columns["compressed_tokens"] = pa.array(tokens, pa.int64())
        return pa.table(columns | {name: rows[name] for name in ("tokenizer", SPLIT)})


def _chosen(rows: pa.Table, corpora: tuple[str, ...], split: str | None = None) -> pa.Table:
    rows = kept(rows)
    mask = pc.is_in(rows["corpus"], pa.array(corpora))
    if split is not None:
        mask = pc.and_(mask, pc.equal(rows[SPLIT], split))
    return rows.filter(mask).select(["row_id", *_COLUMNS, "compression_origin"])
