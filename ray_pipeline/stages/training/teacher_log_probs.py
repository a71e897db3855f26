"""The teacher's log-probabilities, stored once so that training need not load the teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import AddedWith, Execution
from ray_pipeline.core.rows import set_column
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.device import Precision
from ray_pipeline.models.vllm import changing
from ray_pipeline.stage import ModelStage, ModelStageConfig
from ray_pipeline.stages.training.teacher import TrainTeacher
from ray_pipeline.stages.training.tokenise import Tokenise

if TYPE_CHECKING:
    from ray_pipeline.train.teacher_cache import CacheWriter
    from ray_pipeline.train.vllm_cache import VllmCacheWriter

_LISTS: Mapping[str, pa.DataType] = {
    "teacher_ids": pa.large_list(pa.int32()),
    "teacher_log_probs": pa.large_list(pa.float16()),
    "teacher_tail": pa.large_list(pa.float32()),
}


class TeacherLogProbs(ModelStage):
    """Writes the teacher's top-k log-probabilities at answer tokens (`train.teacher_cache`).

    Only rows of the training split get them. Each row records what they were computed from, so a
    training with another tokenizer, vocabulary or text is refused.
    """

    name = "teacher-log-probs"
    needs_stages = (Tokenise, TrainTeacher)
    reads = {
        "input_ids": pa.list_(pa.int32()),
        "answer_mask": pa.list_(pa.bool_()),
        "split": pa.string(),
    }
    writes = {
        **_LISTS,
        "tokens_hash": pa.uint64(),
        "teacher": pa.string(),
    }
    internal = (*_LISTS, "tokens_hash", "teacher")

    class Config(ModelStageConfig):
        k: int = Field(
            64,
            ge=0,
            description="number of most likely tokens whose log-probabilities are stored per "
            "answer token; the probability of all others is stored as one sum; 0: nothing is "
            "stored",
        )
        engine: Literal["transformers", "vllm"] = Field(
            "transformers",
            description="library that computes the log-probabilities; vllm is for teachers that "
            "do not fit in one process, and is not faster on CPUs",
        )
        engine_args: Annotated[dict[str, Any], AddedWith({})] = Field(
            {}, description="arguments of vLLM's engine, such as tensor_parallel_size"
        )
        precision: Precision = Field(
            "auto",
            description="data type of the forward pass; auto: bfloat16 on GPUs that support it, "
            "else float32. The softmax is always computed in float32",
        )
        batch_tokens: Annotated[int, Execution] = Field(
            8192, ge=1, description="tokens per forward pass, padding included"
        )

        def identity(self) -> dict[str, Any]:
            """The configuration without vLLM arguments that change only the speed."""
            data = super().identity()
            if arguments := changing(data.pop("engine_args", {})):
                data["engine_args"] = arguments
            return data

    config: Config

    def load(self) -> None:
        """Load the teacher from the run."""
        if self.config.k == 0:
            return
        from ray_pipeline.models.packaged import revision
        from ray_pipeline.models.tokenizer import load_tokenizer, tokenizer_hash, vocabulary_size
        from ray_pipeline.rundir.models import get_model
        from ray_pipeline.train.teacher_cache import CacheInfo

        folder = get_model(Storage(self.settings.run_dir), "teacher")
        tokenizer = load_tokenizer(folder)
        vocabulary = vocabulary_size(tokenizer)
        self._info = CacheInfo(
            k=min(self.config.k, vocabulary),
            vocabulary=vocabulary,
            tokenizer=tokenizer_hash(tokenizer),
            teacher=revision(folder),
        )
        self._write = self._writer(folder)

    def _writer(self, folder: str) -> CacheWriter | VllmCacheWriter:
        from ray_pipeline.train.student import load
        from ray_pipeline.train.teacher_cache import CacheWriter

        config = self.config
        if config.engine == "vllm":
            from ray_pipeline.train.vllm_cache import VllmCacheWriter

            return VllmCacheWriter(folder, self._info, config.precision, config.engine_args)
        device = "cuda" if config.num_gpus else "cpu"
        return CacheWriter(load(folder).to(device), self._info, config.precision)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Compute log-probabilities for the rows of the training split."""
        from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows

        wanted = pc.equal(rows["split"], "train")
        chosen = rows.filter(wanted)
        columns: dict[str, Any] = {
            name: pa.nulls(rows.num_rows, t) for name, t in self.writes.items()
        }
        if chosen.num_rows and self.config.k:
            tokens = TokenRows(chosen)
            longest = int(tokens.lengths.max())
            size = BatchConfig(batch_tokens=max(longest, self.config.batch_tokens))
            made = self._write(tokens, BatchPlan(tokens, size).in_order())
            at = pc.index_in(rows["row_id"].combine_chunks(), made["row_id"].combine_chunks())
            for name in (*_LISTS, "tokens_hash"):
                values = made[name].cast(self.writes[name]).combine_chunks()
                columns[name] = values.take(at)
            columns["teacher"] = pc.if_else(wanted.combine_chunks(), self._info.to_json(), None)
            counts["answer_tokens"] += int(tokens.answer_tokens.sum())
        for name, values in columns.items():
            rows = set_column(rows, name, values)
        return rows
