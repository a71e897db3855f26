"""The stages one after the other through the engine's own checks, without Ray."""

import asyncio
from collections import Counter

import numpy as np
from support.stage_tables import ScriptedLlm, settings, table

from ray_pipeline.core.rows import created_row_id, kept
from ray_pipeline.engine.asking import ask_unit
from ray_pipeline.engine.segments import apply_map
from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.rundir.account import LlmUsage
from ray_pipeline.stages.questions.accept import AcceptParaphrases
from ray_pipeline.stages.questions.augment import Augment
from ray_pipeline.stages.questions.rephrase import Rephrase
from ray_pipeline.stages.questions.similarity import ParaphraseSimilarity
from ray_pipeline.stages.questions.typos import Typos

SETTINGS = settings("rephrase", "augment_formal", "augment_casual", "augment_general")


class Asker:
    """The model of one unit: rewords by a table, and has no answer for the rest."""

    def __init__(self, answers):
        self.answers = answers
        self.usage = LlmUsage()
        self.cut_rows: set[str] = set()
        self.replaced_characters = 0
        self.requests = 0

    def count_waiting(self, rows):
        pass

    def for_row(self, row_id):
        async def llm(prompt, /, *, check=None, text, **values):
            self.requests += 1
            if text not in self.answers:
                raise AnswerError("timeout", "no answer")
            return await ScriptedLlm(self.answers[text])(prompt, check=check)

        return llm


def asked(stage, rows, answers):
    asker = Asker(answers)
    out, account = asyncio.run(ask_unit(stage, rows, asker))
    assert account.balances
    return out, asker.requests


class OneVector:
    def encode(self, texts):
        return np.ones((len(texts), 1), np.float32)


def test_from_a_statement_to_its_accepted_versions():
    question = "Which city is the capital of France?"
    rows = table([("This city is the capital of France.", "Paris"), ("What is unanswered?", "x")])
    rows, requests = asked(
        Rephrase("first").bound(settings=SETTINGS), rows, {rows["question"][0].as_py(): question}
    )
    assert requests == 1
    rows, requests = asked(Rephrase("second").bound(settings=SETTINGS), rows, {})
    assert requests == 0
    said = {
        "formal": "Which town serves as the capital of France?",
        "casual": "I'm sorry, I cannot help with that.",
        "general": question,
    }
    for style, answer in said.items():
        stage = Augment(style).bound(settings=SETTINGS)
        rows, requests = asked(stage, kept(rows), {question: answer})
        assert requests == (2 if style == "formal" else 1)
    rows = apply_map(Typos().bound(settings=SETTINGS), rows, Counter())
    similar = ParaphraseSimilarity().bound(settings=SETTINGS)
    similar._embedder = OneVector()
    rows = apply_map(similar, rows, Counter())
    counts: Counter[str] = Counter()
    accept = AcceptParaphrases().bound()
    rows = apply_map(accept, rows, counts)
    assert rows["row_id"].to_pylist() == ["row0"] + [
        created_row_id("row0", f"augment-{style}", 0)
        for style in ("formal", "casual", "general", "typos")
    ]
    assert rows["reason"].to_pylist() == [
        None,
        None,
        "paraphrase:refusal: question",
        "paraphrase:copy",
        None,
    ]
    assert counts == {
        "original": 1,
        "formal accepted": 1,
        "casual refusal": 1,
        "general copy": 1,
        "typos accepted": 1,
    }
    assert accept.exported(rows)["version"].to_pylist() == ["original", "formal", "typos"]


def test_only_a_request_without_an_answer_fails_its_row():
    rows = table([("What is it?", "x")])
    out, _ = asked(Augment("formal").bound(settings=SETTINGS), rows, {})
    assert out["status"].to_pylist() == ["failed"]
    assert out["reason"].to_pylist() == ["llm:timeout: no answer"]
