"""Instruction-following difficulty: how little an instruction helps to predict its answer.

Li et al. (2023), "From Quantity to Quality" (arXiv 2308.12032): the mean loss of the answer's
tokens given the instruction, over their mean loss without it. Near 1, the instruction tells a model
little about the answer, which is then worth learning; near 0, the answer follows from it. Above 1,
instruction and answer do not belong together. Li et al. (2024), "Superfiltering" (arXiv
2402.00530): a model as small as GPT-2 ranks rows nearly as a large one does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.rows import KEPT, reason_code, set_column
from ray_pipeline.models.control_tokens import ROWS_WITH_CONTROL_TEXT
from ray_pipeline.stage import ModelStage, ModelStageConfig

Floats = npt.NDArray[np.float64]

#: Why a row has no score, by the reason that tokenisation returns.
_WHY = {
    "tokens:no_question": "no instruction",
    "tokens:no_answer": "no answer",
    "tokens:prompt_too_long": "instruction too long",
    "tokens:template": "the chat template does not fit",
}
#: Decimals of the scores; further ones depend on the other rows of a batch.
_DECIMALS = 6


class ScoreIfd(ModelStage):
    """Writes ``ifd`` and the two losses that it is the ratio of; drops nothing.

    Both passes score the same tokens: those of the answer as it follows the prompt, without its
    stop token. The first token is left out of both means: without the instruction nothing precedes
    it, and a model could only guess it from a beginning-of-text token whose meaning differs
    between models.

    All three are null if they cannot be computed: no instruction, no answer or one with too few
    tokens, an instruction that is too long, losses that are not finite, or an answer that is
    certain without its instruction. Each case is counted.
    """

    name = "score-ifd"
    reads = {
        "instruction": pa.string(),
        "response": pa.string(),
    }
    writes = {
        "ifd": pa.float64(),
        "loss_given_instruction": pa.float64(),
        "loss_alone": pa.float64(),
    }
    in_plan = False

    class Config(ModelStageConfig):
        model: str | None = Field(
            None,
            description="small causal language model, such as smollm2-135m-instruct; null: the "
            "stage is off",
        )
        ratio: Literal["loss", "perplexity"] = Field(
            "loss",
            description="what the score is the ratio of; loss: mean losses, as in Li et al. "
            "(2023); perplexity: perplexities, as in Superfiltering (2024), which ranks rows by "
            "the difference of the losses",
        )
        max_tokens: int = Field(
            512,
            ge=2,
            description="maximum number of answer tokens that are scored; further tokens are "
            "ignored",
        )
        min_tokens: int = Field(
            2,
            ge=2,
            description="minimum number of answer tokens; rows with a shorter answer get no score",
        )
        max_instruction_tokens: int = Field(
            1024,
            ge=1,
            description="maximum number of tokens of an instruction with its formatting; rows "
            "with a longer one get no score",
        )
        style: Literal["auto", "chat", "plain"] = Field(
            "auto",
            description="how the prompt is built; chat: with the tokenizer's chat template; "
            "plain: with `prompt`; auto: chat if the tokenizer has a template, else plain",
        )
        prompt: str = Field(
            "### Instruction:\n{question}\n\n### Response:\n",
            description="prompt of the style plain; it must contain {question}",
        )
        bfloat16: bool = Field(
            False,
            description="load the weights in bfloat16: faster; scores change by at most a few "
            "hundredths",
        )
        batch_tokens: Annotated[int, Execution] = Field(
            4096, ge=1, description="tokens per forward pass, padding included"
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.model is None

    @property
    def models(self) -> Mapping[str, str]:
        """The model that computes the losses."""
        return {} if self.config.model is None else {"model": self.config.model}

    def load(self) -> None:
        """Load the model and its tokenizer."""
        import torch

        from ray_pipeline.models.tokenizer import load_tokenizer
        from ray_pipeline.train.student import load

        folder = self.model("model")
        device = "cuda" if self.config.num_gpus else "cpu"
        dtype = torch.bfloat16 if self.config.bfloat16 else torch.float32
        self.use(load(folder, dtype).eval().to(device), load_tokenizer(folder))

    def use(self, model: Any, tokenizer: Any) -> None:
        """Use this model, already on its device, and its tokenizer."""
        from ray_pipeline.models.text import TextConfig, Tokeniser
        from ray_pipeline.train.forward import AnswerModel

        config = self.config
        room = config.max_instruction_tokens + config.max_tokens
        # With a shorter context window, fewer answer tokens are scored.
        context = getattr(model.config, "max_position_embeddings", None)
        text = TextConfig(
            style=config.style,
            prompt=config.prompt,
            answer="{answer}",
            question_column="instruction",
            answer_column="response",
            max_tokens=max(2, min(room, context or room)),
        )
        self._tokenise = Tokeniser(tokenizer, text)
        self._ends = self._tokenise.ends()
        self._model = AnswerModel(model)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Score every row."""
        texts = self._texts(rows, counts)
        where = np.array([place for place, _, _ in texts], dtype=np.int64)
        given, alone, ratio = np.full((3, rows.num_rows), np.nan)
        if texts:
            given[where], alone[where] = self._losses([text[1:] for text in texts])
            ratio = self._ratio(given, alone, where, counts)
        usable = np.isfinite(ratio)
        counts["scored"] += int(usable.sum())
        counts["ifd above 1"] += int((ratio[usable] > 1).sum())
        for name, values in zip(self.writes, (ratio, given, alone), strict=True):
            column = pa.array(np.round(values, _DECIMALS), mask=~usable)
            rows = set_column(rows, name, column)
        return rows

    def _texts(
        self, rows: pa.Table, counts: Counter[str]
    ) -> list[tuple[int, list[int], list[int]]]:
        """Place, prompt and answer, both as tokens, of each row that can be scored."""
        made = self._tokenise(rows.select(["row_id", "instruction", "response"]))
        counts[ROWS_WITH_CONTROL_TEXT] += self._tokenise.with_control_text(rows)
        found = []
        columns = (made[name].to_pylist() for name in ("status", "reason", "input_ids"))
        masks = made["answer_mask"].to_pylist()
        for place, (status, reason, ids, mask) in enumerate(zip(*columns, masks, strict=True)):
            if status != KEPT:
                counts[f"no score: {_WHY.get(code := reason_code(reason), code)}"] += 1
                continue
            prompt, answer = ids[: mask.index(True)], ids[mask.index(True) :]
            if answer[-1] in self._ends:
                answer = answer[:-1]
            if len(prompt) > self.config.max_instruction_tokens:
                counts["no score: instruction too long"] += 1
            elif len(answer) < self.config.min_tokens:
                counts["no score: answer too short"] += 1
            else:
                found.append((place, prompt, answer[: self.config.max_tokens]))
        return found

    def _losses(self, texts: Sequence[tuple[list[int], list[int]]]) -> tuple[Floats, Floats]:
        """Mean losses of the answers without their first token: with the prompt, and alone."""
        from ray_pipeline.evaluate.model import answer_losses
        from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows

        ids = [[*prompt, *answer] for prompt, answer in texts] + [answer for _, answer in texts]
        skipped = [len(prompt) + 1 for prompt, _ in texts] + [1] * len(texts)
        masks = [np.arange(len(one)) >= first for one, first in zip(ids, skipped, strict=True)]
        table = pa.table(
            {
                "row_id": pa.nulls(len(ids), pa.string()),
                "input_ids": pa.array(ids, pa.large_list(pa.int32())),
                "answer_mask": pa.array(masks, pa.large_list(pa.bool_())),
            }
        )
        tokens = TokenRows(table)
        longest = int(tokens.lengths.max())
        size = BatchConfig(batch_tokens=max(longest, self.config.batch_tokens))
        batches = BatchPlan(tokens, size).in_order()
        losses = answer_losses(self._model, tokens, batches)
        return losses[: len(texts)], losses[len(texts) :]

    def _ratio(
        self, given: Floats, alone: Floats, where: npt.NDArray[np.int64], counts: Counter[str]
    ) -> Floats:
        with np.errstate(all="ignore"):
            ratio = given / alone if self.config.ratio == "loss" else np.exp(given - alone)
        finite = np.isfinite(given) & np.isfinite(alone)
        counts["no score: loss not finite"] += int((~finite[where]).sum())
        counts["no score: answer certain alone"] += int((finite & ~np.isfinite(ratio)).sum())
        return ratio
