"""The two passes that ask a model: a compressed prompt, and variants with a compressed prompt."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pyarrow as pa
from pydantic import Field

from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, Drop, Expand, Row, Stage, StageConfig
from ray_pipeline.stages.compression.checks import Limits, fault, paraphrase_fault, tidy_answer
from ray_pipeline.stages.compression.measure import AfterMeasuring
from ray_pipeline.stages.text.answers import Check

#: How the model is told what is wrong, when it is asked again.
_COMPLAINTS = {
    "empty": "The answer is empty.",
    "unchanged": "The text is unchanged: make it shorter.",
    "refused": "Do not answer or refuse: write the same request in fewer words.",
    "explanation": "Write only the shorter prompt, without any explanation.",
    "longer": "The text is longer than the original: use fewer words.",
    "no_shorter": "The text is no shorter: use fewer words.",
    "answered": "Do not answer the prompt: write the same request in fewer words.",
}


class _AskConfig(StageConfig):
    llm: str | None = Field(
        None,
        description="language model that is asked: a name under `llms`; null: the stage is off",
    )
    ask_again: bool = Field(
        False,
        description="ask again, with what is wrong, if an answer would not be accepted, up to the "
        "model's `reasks`; small models rarely do better the second time",
    )


class CompressPrompts(AfterMeasuring, AskStage):
    """Asks a model for a shorter form of every prompt: the primary pass.

    Writes ``answer``, as it came, and ``answer_error``, why it is not usable (cut off, refused by
    the provider's filter); what is wrong with its text is for `CheckCandidates` to find, so that
    a check can change without a request. A request without any answer fails the row, for
    ``ray-pipeline retry``.

    The prompt file gets ``prompt``.
    """

    name = "compress-primary"
    reads = {"prompt": pa.string()}
    writes = {"answer": pa.string(), "answer_error": pa.string(), "note": pa.string()}
    variables = ("prompt",)

    class Config(_AskConfig):
        prompt: str = Field(
            "compress", description="prompt file: its name without the suffix, or a path"
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.llm is None

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask for one compressed prompt."""
        row = {**row, "answer_error": None}
        check = _check(row["prompt"], self) if self.config.ask_again else None
        try:
            found = await llm(self.prompt, check=check, prompt=row["prompt"])
        except AnswerError as error:
            row = self.keep(row, "no usable answer", error)
            code = None if error.code == "unusable" else error.code
            return {**row, "answer": error.answer, "answer_error": code}
        return {**row, "answer": found.text}


def _check(prompt: str, stage: AfterMeasuring) -> Check:
    def check(text: str) -> str | None:
        return _complaint(fault(prompt, tidy_answer(text), stage.count))

    return check


def _complaint(found: str | None) -> str | None:
    if found is None:
        return None
    code, _, detail = found.partition(": ")
    return _COMPLAINTS.get(code) or f"Keep all of the original ({code}: {detail})."


class MakeVariants(AfterMeasuring, AskStage):
    """Asks a model for two variants of every prompt and a compressed prompt: the variant pass.

    They come as one JSON answer, which is accepted or refused as a whole: both variants say the
    same in other words, and the compressed prompt passes the checks of the primary pass. Where
    that fails the row stays, with ``variants_error`` and without variants.

    Writes ``variant_1``, ``variant_2`` and ``variant_compressed``. The prompt file gets ``prompt``.
    """

    name = "compress-variants"
    reads = {"prompt": pa.string()}
    writes = {
        "variant_1": pa.string(),
        "variant_2": pa.string(),
        "variant_compressed": pa.string(),
        "variants_error": pa.string(),
        "note": pa.string(),
    }
    variables = ("prompt",)

    class Config(_AskConfig):
        prompt: str = Field(
            "variants", description="prompt file: its name without the suffix, or a path"
        )
        limits: Limits = Field(Limits(), description="how much a compression may change")

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.llm is None

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask for two variants and a compressed prompt."""
        row = {**row, **{name: None for name in self.writes if name != "note"}}

        def wrong(text: str) -> str | None:
            return self._fault(row["prompt"], text)

        check = (lambda text: _complaint(wrong(text))) if self.config.ask_again else None
        try:
            found = await llm(self.prompt, check=check, prompt=row["prompt"])
        except AnswerError as error:
            reason = wrong(error.answer or "") if error.code == "unusable" else error.code
            return {**self.keep(row, "no variants", error), "variants_error": reason or error.code}
        if (reason := wrong(found.text)) is not None:
            return {**row, "variants_error": reason}
        first, second, compressed = _three(found.text) or ("", "", "")
        made = {"variant_1": first, "variant_2": second, "variant_compressed": compressed}
        return {**row, **made}

    def _fault(self, prompt: str, text: str) -> str | None:
        """What is wrong with an answer, as a code and detail."""
        three = _three(text)
        if three is None:
            return "format: not the three texts that were asked for"
        first, second, compressed = three
        for number, variant in enumerate((first, second), start=1):
            if (found := paraphrase_fault(prompt, variant)) is not None:
                return f"variant_{number}: {found}"
        if first.casefold() == second.casefold():
            return "variant_2: the same as variant_1"
        return fault(prompt, compressed, self.count, self.config.limits)


def _three(text: str) -> tuple[str, str, str] | None:
    """The texts of a JSON answer; None if they are not there."""
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, Mapping):
        return None
    values = [answer.get(name) for name in ("variant_1", "variant_2", "compressed_prompt")]
    if not all(isinstance(value, str) and value.strip() for value in values):
        return None
    first, second, compressed = (tidy_answer(str(value)) for value in values)
    return first, second, compressed


#: The stages that ask a model, in the order of a job.
PASSES: tuple[type[Stage], ...] = (CompressPrompts, MakeVariants)
