"""The requests in a unit's account are those of its journal, after any sequence of attempts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.asking import ask_unit
from ray_pipeline.engine.segments import Segment
from ray_pipeline.engine.unit import FromSegment, SegmentJob, UnitState, reusable, run_unit
from ray_pipeline.llm.asker import RequestTemplate, UnitAsker
from ray_pipeline.llm.asking import Llm
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat, EngineError, Request
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.responses import Journal, Response, recorded, spent
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import AskStage, Row

TEXTS = ["a", "b", "a", "c", "d"]
UNIT = Unit("u1", "rows.jsonl", "jsonl", "file", 0, 0, len(TEXTS))
UPSTREAM = "stages/01-read"
TEMPLATE = RequestTemplate("say", LlmConfig(model="m", reasks=1), "r1", seed=7)

#: What becomes of one request: an answer, one that is unusable, or no answer after some tries.
FATES = st.one_of(st.just("good"), st.just("bad"), st.tuples(st.integers(1, 5), st.floats(0, 0.5)))
#: An attempt at the unit: a run with the prompt of a number, a retry, or a run of it that is
#: killed after a number of rows.
ATTEMPTS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(0, 1)),
        st.tuples(st.just("retry"), st.integers(0, 1)),
        st.tuples(st.just("kill"), st.integers(0, len(TEXTS) - 1)),
    ),
    min_size=1,
    max_size=6,
)


class Say(AskStage):
    name = "say"
    writes = {"said": pa.string()}
    number = 0

    async def ask(self, row: Row, llm: Llm) -> Row:
        prompt = Prompt("p", None, f"Say {self.number} {{{{ what }}}}", {}, AnswerFormat())
        answer = await llm(prompt, what=row["text"], check=lambda t: "no" if t == "bad" else None)
        return {**row, "said": answer.text}


class Server:
    """An engine whose answers are drawn; it counts what it was asked and what that costs."""

    def __init__(self, fates: list[Any]) -> None:
        self._fates = itertools.cycle(fates)
        self.bill = LlmUsage()

    async def generate(self, request: Request) -> Response:
        await asyncio.sleep(0)
        fate = next(self._fates)
        self.bill.requests += 1
        if isinstance(fate, tuple):
            tries, lost = fate
            self.bill.unanswered += 1
            self.bill.retries += tries - 1
            self.bill.lost_usd += lost
            raise EngineError("server_error", "no", tries, lost_usd=lost)
        self.bill.prompt_tokens += 3
        self.bill.completion_tokens += 2
        self.bill.retries += 1
        self.bill.cost_usd += 0.25
        return Response(fate, "stop", 3, 2, attempts=2, cost_usd=0.25)

    async def close(self) -> None: ...


def job_of(storage: Storage) -> SegmentJob:
    rows = with_envelope(pa.table({"text": TEXTS}), [str(i) for i in range(len(TEXTS))])
    read = [StageAccount.of("read", rows, rows)]
    write_part(storage, part_path(UPSTREAM, "u1"), rows,
               fingerprint="read", input_digest="u1", accounts=read)  # fmt: skip
    stage = Say.__new__(Say)
    segment = Segment(2, "say", (stage,), ("say",), False, "say")
    upstream = FromSegment(storage, UPSTREAM)
    return SegmentJob(storage, segment, upstream, rows.schema, {}, {}, 0, unit_rows=9)


def attempt(job: SegmentJob, server: Server, number: int, retry: bool) -> StageAccount:
    """What a worker does with the unit, for the prompt of a number; returns its account."""
    stage = Say.__new__(Say)
    stage.number = number
    print_ = f"say-{number}"
    segment = replace(job.segment, stages=(stage,), fingerprint=print_)
    state = UnitState(replace(job, segment=segment, retry=retry), UNIT)

    def work(state: UnitState, rows: pa.Table, _: Any) -> tuple[pa.Table, list[StageAccount]]:
        journal = Journal(job.storage, "say", "u1")
        afresh = frozenset(state.failed_before if retry else [])
        out, account = asyncio.run(
            ask_unit(stage, rows, UnitAsker(TEMPLATE, server, journal, afresh))
        )
        journal.close()
        return out, [account]

    receipt = reusable(state) or run_unit(state, work)
    (account,) = receipt.accounts
    return account


def kill(job: SegmentJob, server: Server, rows: int) -> None:
    """An attempt that asks about some rows and is gone."""
    asker = UnitAsker(TEMPLATE, server, Journal(job.storage, "say", "u1"))
    for number, text in enumerate(TEXTS[:rows]):
        ask = Say.__new__(Say).ask({"text": text}, asker.for_row(str(number)))
        with contextlib.suppress(Exception):
            asyncio.run(ask)


@settings(max_examples=int(os.environ.get("SOAK_EXAMPLES", "60")), deadline=None)
@given(fates=st.lists(FATES, min_size=1, max_size=7), attempts=ATTEMPTS)
def test_every_request_counts_once(fates: list[Any], attempts: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        job, server = job_of(storage), Server(fates)
        for what, number in attempts:
            if what == "kill":
                kill(job, server, number)
                continue
            sent_before = server.bill.requests
            account = attempt(job, server, number, what == "retry")
            usage = account.llm
            assert usage is not None
            assert account.balances
            if server.bill.requests == sent_before and usage.sent < sent_before:
                continue  # reused as it was, after attempts that committed nothing
            billed = asdict(replace(server.bill, requests=usage.sent))
            counted = asdict(replace(usage, requests=usage.sent, reused=0, unused=0))
            assert usage.sent == server.bill.requests
            assert billed == counted
            assert min(usage.requests, usage.reused, usage.unused) >= 0
            # What a commit uses is no more than what its rows can have asked for.
            assert usage.requests + usage.reused <= server.bill.requests
        stored = recorded(storage, "responses")
        assert asdict(stored) == asdict(server.bill)
        tokens = stored.prompt_tokens + stored.completion_tokens
        assert spent(storage) == (stored.cost_usd + stored.lost_usd, tokens)


def test_a_calm_attempt_has_no_unused_answer() -> None:
    with tempfile.TemporaryDirectory() as folder:
        job, server = job_of(Storage(folder)), Server(["good"])
        usage = attempt(job, server, 0, retry=False).llm
        assert usage is not None
        assert (usage.requests, usage.reused, usage.unused) == (4, 0, 0)


def test_answers_of_a_killed_attempt_are_reused_and_those_of_another_prompt_unused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        job, server = job_of(Storage(folder)), Server(["good"])
        kill(job, server, 2)
        usage = attempt(job, server, 0, retry=False).llm
        assert usage is not None
        assert (usage.requests, usage.reused, usage.unused) == (2, 2, 0)
        usage = attempt(job, server, 1, retry=False).llm
        assert usage is not None
        assert (usage.requests, usage.reused, usage.unused, usage.cost_usd) == (4, 0, 4, 2.0)


def test_a_retry_counts_the_answers_of_the_other_rows_once() -> None:
    with tempfile.TemporaryDirectory() as folder:
        job, server = job_of(Storage(folder)), Server(["good", (8, 0.0), "good", "good", "good"])
        account = attempt(job, server, 0, retry=False)
        assert account.llm is not None
        assert (account.failed, account.llm.unanswered, account.llm.retries) == (1, 1, 7 + 3)
        account = attempt(job, server, 0, retry=True)
        assert account.llm is not None
        assert (account.failed, account.kept) == (0, len(TEXTS))
        assert (account.llm.requests, account.llm.reused, account.llm.unused) == (5, 0, 0)
