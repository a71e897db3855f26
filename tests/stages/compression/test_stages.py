"""The stages from a prompt to a corpus, each by itself."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from support.compression_stages import TOKENIZER, applied, bound, prompts
from support.stage_tables import ScriptedLlm, ask, reasons

from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.stages.compression.baselines import MatchBaselines, word_surprise
from ray_pipeline.stages.compression.candidates import (
    CheckCandidates,
    ChooseCompression,
    trim,
)
from ray_pipeline.stages.compression.compress import CompressPrompts, MakeVariants
from ray_pipeline.stages.compression.corpora import WriteCorpora
from ray_pipeline.stages.compression.curate import Curate
from ray_pipeline.stages.compression.measure import MeasurePrompts
from ray_pipeline.stages.compression.summarise import Summary

LONG = "Can you please explain to me why the sky is blue, and why the sea is blue as well?"
SHORT = "Explain why sky is blue, and why sea is blue."


def chosen(answer: str | None, error: str | None = None, **config: Any) -> dict[str, Any]:
    """The row after all stages from an answer to the choice."""
    rows = prompts(LONG, answer=pa.array([answer], pa.string()), answer_error=[error])
    rows, _ = applied(bound(CheckCandidates(), **config), rows)
    rows, _ = applied(bound(ChooseCompression()), rows)
    rows, _ = applied(bound(Curate()), rows)
    return dict(rows.to_pylist()[0])


def test_prompts_that_cannot_be_compressed_are_dropped_with_the_reason() -> None:
    texts = (LONG, "😀 🎉", "```\nthe code\n```", "word " * 3000, "Not 5!", "{}")
    rows, _ = applied(bound(MeasurePrompts(), max_tokens=100), prompts(*texts))
    nothing = "prompt:nothing_to_compress: every word must stay"
    assert reasons(rows) == [
        None,
        nothing,
        nothing,
        "prompt:too_long: 3,001 tokens, at most 100",
        nothing,
        nothing,
    ]
    assert rows["prompt_tokens"][0].as_py() == 21
    assert set(rows["tokenizer"].to_pylist()) == {TOKENIZER}


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        ("", None, "compression:empty"),
        (LONG, None, "compression:unchanged"),
        ("I'm sorry, but I can't help with that.", None, "compression:refused"),
        ("Because air scatters blue light the most.", None, "compression:answered"),
        ("Explain why sky", "length", "compression:cut"),
        (None, "content_filter", "compression:refused"),
    ],
)
def test_an_unusable_answer_drops_its_row_where_no_rule_may_help(
    answer: str | None, error: str | None, reason: str
) -> None:
    found = chosen(answer, error, rules=())
    assert found["status"] == "dropped"
    assert found["reason"].partition(": ")[0] == reason
    assert chosen(answer, error)["compression_origin"] == "articles_and_filler"


def test_the_answer_is_taken_before_a_rule_and_without_what_is_around_it() -> None:
    found = chosen(f'Sure, here is the shorter prompt: "{SHORT}"', trim=False)
    assert (found["compression_origin"], found["compressed_prompt"]) == ("answer", SHORT)
    found = chosen("Explain why the sky is blue, and why the sea is blue.")
    assert found["compression_origin"] == "answer_trimmed"
    assert found["compressed_prompt"] == SHORT[:-1]
    assert found["compressed_tokens"] == 12


def test_trimming_touches_no_code_quotation_or_name() -> None:
    assert trim("Fix `the a` in the code.") == "Fix `the a` in code"
    assert trim('Say "the end."') == 'Say "the end."'
    assert trim("Add 1.5 to the 2.") == "Add 1.5 to 2."


@pytest.mark.parametrize("error", ["length", "unusable"])
def test_an_answer_is_stored_as_it_came(error: str) -> None:
    class Failing:
        async def __call__(self, *_: object, **__: object) -> None:
            raise AnswerError(error, "why", answer="half an")

    stage = bound(CompressPrompts(), llm="compressor")
    made = ask(stage, {"prompt": LONG}, Failing())  # type: ignore[arg-type]
    assert made["answer"] == "half an"
    assert made["answer_error"] == (None if error == "unusable" else error)
    made = ask(stage, {"prompt": LONG}, ScriptedLlm(SHORT))
    assert made == {"prompt": LONG, "answer": SHORT, "answer_error": None}


def test_a_request_without_any_answer_fails_its_row() -> None:
    class Gone:
        async def __call__(self, *_: object, **__: object) -> None:
            raise AnswerError("timeout", "why")

    with pytest.raises(AnswerError):
        ask(bound(CompressPrompts(), llm="compressor"), {"prompt": LONG}, Gone())  # type: ignore[arg-type]


def test_a_model_is_told_what_is_wrong_when_it_is_asked_again() -> None:
    llm = ScriptedLlm(LONG, "Air scatters blue light the most.", SHORT)
    stage = bound(CompressPrompts(), llm="compressor", ask_again=True)
    assert ask(stage, {"prompt": LONG}, llm)["answer"] == SHORT
    assert "unchanged" in llm.complaints[0] and "Do not answer" in llm.complaints[1]


GOOD = {
    "variant_1": "Why is the sky blue, and why is the sea blue, too?",
    "variant_2": "What is why the sky is blue and the sea is blue?",
    "compressed_prompt": SHORT,
}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({}, None),
        ({"variant_1": LONG}, "variant_1: unchanged"),
        ({"variant_2": GOOD["variant_1"]}, "variant_2: the same"),
        ({"variant_2": "Why are 2 seas blue?"}, "variant_2: number"),
        ({"compressed_prompt": LONG}, "unchanged"),
        ({"compressed_prompt": 3}, "format"),
        ({"variant_1": " "}, "format"),
    ],
)
def test_variants_come_as_one_checked_answer(changed: dict[str, Any], error: str | None) -> None:
    stage = bound(MakeVariants(), llm="compressor")
    made = ask(stage, {"prompt": LONG}, ScriptedLlm(json.dumps(GOOD | changed)))
    if error is None:
        assert [made["variant_1"], made["variant_2"], made["variant_compressed"]] == [
            *GOOD.values()
        ]
        assert made["variants_error"] is None
    else:
        assert made["variants_error"].startswith(error)
        assert made["variant_1"] is None and made["variant_compressed"] is None


def test_the_highest_score_is_taken_where_a_model_scored() -> None:
    rows = prompts(LONG, answer=[SHORT])
    rows, _ = applied(bound(CheckCandidates()), rows)
    (candidates,) = rows["candidates"].to_pylist()
    scores = [[-float(place) for place in range(len(candidates))][::-1]]
    scored = rows.append_column("candidate_log_probs", pa.array(scores, pa.list_(pa.float64())))
    everything = tuple(candidate["origin"] for candidate in candidates)
    made, _ = applied(bound(ChooseCompression(), prefer=everything), scored)
    assert made["compression_origin"].to_pylist() == [candidates[-1]["origin"]]


def test_baselines_are_as_short_as_the_compression_and_keep_what_must_stay() -> None:
    text = "Please explain to me in three sentences why the sky over Rome is not green at all"
    stage = bound(MatchBaselines(), draws=5)
    made = stage.of(text, 14, [float(number) for number in range(len(text.split()))])
    for baseline in [made["baseline_first_words"], *made["baseline_random"]]:
        assert stage.count(baseline) <= 14
    for baseline in [*made["baseline_random"], made["baseline_rules"], made["baseline_surprise"]]:
        for word in ("three sentences", "Rome", "not"):
            assert word in baseline
    assert len(set(made["baseline_random"])) > 1
    assert made == stage.of(text, 14, [float(number) for number in range(len(text.split()))])
    assert stage.of(text, 14, None)["baseline_surprise"] is None


def test_a_words_surprise_is_the_sum_over_its_tokens() -> None:
    class Scored:
        def __init__(self, spans: list[tuple[int, int]], log_probs: list[float]) -> None:
            self.spans, self.log_probs = spans, log_probs

    class Scorer:
        def texts(self, texts: list[str]) -> list[Scored]:
            spans = [(0, 2), (2, 4), (4, 7), (7, 8), (8, 10)]
            return [Scored(spans, [float("nan"), -1.0, -2.0, -0.5, -0.25])]

    assert word_surprise(Scorer(), ["abcd efg h"]) == [[1.0, 2.5, 0.25]]


def test_corpora_hold_rows_up_to_their_tokens_and_splits_do_not_overlap() -> None:
    rows = prompts(
        *(f"prompt {number}" for number in range(6)),
        compressed_prompt=["short"] * 6,
        prompt_tokens=[10, 64, 65, 128, 129, 12],
        compressed_tokens=[1] * 6,
        tokenizer=[TOKENIZER] * 6,
        compression_origin=["articles"] * 6,
        split=["train", "test", "train", "test", "train", "validation"],
    )
    stage = bound(WriteCorpora())
    rows, counts = applied(stage, rows)
    files = {
        name: [int(text.split()[1]) for text in choose(rows)["prompt"].to_pylist()]
        for name, choose in stage.exports().items()
    }
    assert files == {
        "dolly-prompt-compression.csv": [0, 1, 2, 3, 4, 5],
        "dolly-prompt-compression-v2.csv": [],
        "dolly-short-prompt-compression.csv": [0, 1, 2, 3, 5],
        "dsp-train.csv": [0, 2],
        "dsp-validation.csv": [5],
        "dsp-test.csv": [1, 3],
        "dolly-very-short-prompt-compression.csv": [0, 1, 5],
        "dvsp-train.csv": [0],
        "dvsp-validation.csv": [5],
        "dvsp-test.csv": [1],
    }
    assert counts["very_short, train"] == 1


def test_the_summary_counts_by_origin_and_says_a_low_yield_first() -> None:
    summary = Summary(TOKENIZER)
    for number in range(20):
        fault = None if number == 0 else "longer: 9 tokens"
        candidates = [
            {"origin": "answer", "text": "x", "tokens": 5, "fault": fault},
            {"origin": "articles", "text": "x", "tokens": 8, "fault": None},
        ]
        summary.add(
            {
                "prompt_tokens": 10,
                "compressed_tokens": None if number == 19 else 8,
                "compression_origin": None if number == 19 else "articles",
                "compression_fault": "number: 3 is missing" if number == 19 else None,
                "candidates": candidates,
            }
        )
    lines = summary.lines()
    assert lines[0].startswith(
        "only 5 % of the candidates of answer are usable: empty 0, longer 19"
    )
    figures = summary.figures()
    assert (figures["prompts"], figures["accepted"]) == (20, 19)
    assert figures["lengths"]["total_ratio"] == pytest.approx(0.8)
    assert figures["lengths_with_unchanged"]["total_ratio"] == pytest.approx(0.81)
    assert figures["faults"] == {"number": 1}
    assert figures["origins"]["answer"]["accepted"] == 1
    assert figures["prompt_bins"] == {"1-16": 20}
