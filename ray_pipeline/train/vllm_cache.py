"""The teacher's cache by vLLM, from the log-probabilities that it returns of a prompt's tokens.

On a CPU it is as fast as transformers (benchmarks/README.md). It is for teachers that need vLLM:
those that span several GPUs, or come in a quantised format.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.models.device import Precision
from ray_pipeline.models.hub import at_commit
from ray_pipeline.train.batches import Batch, TokenRows
from ray_pipeline.train.teacher_cache import CacheInfo, cache_of

#: Relative error of a float32 log-probability's probability, near 1.
_ERROR = 1.2e-7


class VllmCacheWriter:
    """Computes the same as `teacher_cache.CacheWriter`, with vLLM.

    Args:
        folder: the teacher's.
        info: what to compute.
        precision: of the weights and the forward pass.
        engine: further arguments of vLLM.

    Raises:
        UserError: vLLM is not installed, or its softmax would be over other tokens.
        RunError: vLLM did not start.
    """

    def __init__(
        self, folder: str, info: CacheInfo, precision: Precision, engine: dict[str, Any]
    ) -> None:
        if find_spec("vllm") is None:
            raise UserError("engine: vllm, and vLLM is not installed here: take transformers")
        _check_same_vocabulary(folder, info)
        self.info = info
        self._llm = _started(folder, info, precision, engine)

    def __call__(self, rows: TokenRows, batches: Iterable[Batch] = ()) -> pa.Table:
        """The cache of rows, in their order. vLLM makes its own batches."""
        from vllm import SamplingParams, TokensPrompt

        sampling = SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=self.info.k,
            flat_logprobs=True,
            detokenize=False,
        )
        prompts = [TokensPrompt(prompt_token_ids=rows.ids(i).tolist()) for i in range(len(rows))]
        done = self._llm.generate(prompts, sampling, use_tqdm=False)
        entries = [
            self._entry(rows.mask(i), output.prompt_logprobs) for i, output in enumerate(done)
        ]
        return cache_of(rows, entries, self.info)

    def close(self) -> None:
        """End vLLM's processes, and wait for it."""
        from ray_pipeline.models.vllm import SHUTDOWN_SECONDS

        self._llm.llm_engine.engine_core.shutdown(SHUTDOWN_SECONDS)

    def _entry(self, mask: Any, log_probs_of_prompt: Any) -> tuple[Any, Any, Any]:
        """(ids, log-probabilities, tail) at the answer tokens of a row."""
        # vLLM's flat lists have, for each token but the first, the token itself and then the k most
        # likely ones.
        flat = log_probs_of_prompt
        answers = np.flatnonzero(mask[1:]) + 1
        best = np.array(flat.start_indices)[answers, None] + 1 + np.arange(self.info.k)
        ids, log_probs = np.array(flat.token_ids)[best], np.array(flat.logprobs)[best]
        tail = tail_of(log_probs, self.info.vocabulary)
        return ids, log_probs.astype(np.float16), tail.astype(np.float32)


def tail_of(log_probs: npt.NDArray[np.float64], vocabulary: int) -> npt.NDArray[np.float64]:
    """The probability of the tokens that vLLM does not return; float64 [answers].

    It can only be what is missing to 1, and vLLM's float32 log-probabilities leave an error of
    some 1e-7 a token in that: a tail of 1e-9 would come out a hundred times too large, or negative.
    Each token of the tail is at most as likely as the last one that is returned, which bounds it.
    Below the error it is an upper bound; `losses.top_k`, which has all logits, is exact.

    Args:
        log_probs: of the k most likely tokens, the most likely first, [answers, k].
        vocabulary: tokens of the softmax.
    """
    probabilities = np.exp(log_probs)
    others = vocabulary - log_probs.shape[1]
    missing = np.maximum(0.0, 1 - probabilities.sum(1))
    error = _ERROR * log_probs.shape[1] ** 0.5
    missing = np.where(missing < error, error, missing) if others else np.zeros_like(missing)
    bounded: npt.NDArray[np.float64] = np.minimum(missing, others * probabilities[:, -1])
    return bounded


def _check_same_vocabulary(folder: str, info: CacheInfo) -> None:
    from transformers import AutoConfig

    name, commit = at_commit(folder)
    logits = AutoConfig.from_pretrained(name, **commit).vocab_size
    if logits != info.vocabulary:
        raise UserError(
            f"the teacher has {logits} logits and its tokenizer {info.vocabulary} tokens, and "
            "vLLM's softmax runs over all of them: take engine: transformers"
        )


def _started(folder: str, info: CacheInfo, precision: Precision, engine: dict[str, Any]) -> Any:
    from ray_pipeline.models.vllm import engine_arguments, quiet

    quiet()
    from vllm import LLM

    arguments = engine_arguments(folder, max_num_seqs=64)
    # A cached prefix has no log-probabilities.
    arguments |= {"max_logprobs": info.k, "enable_prefix_caching": False}
    # vLLM has no word for it: its own choice is as the model is saved.
    dtype = "auto" if precision == "bfloat16_if_fast" else precision
    arguments |= {"dtype": dtype} | engine
    try:
        return LLM(**arguments)
    except Exception as error:  # of any kind: vLLM looks at model, machine and settings
        raise RunError(f"vLLM did not start with {folder}: {error}") from error
