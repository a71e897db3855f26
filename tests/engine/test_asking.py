"""An ask stage's rows keep the values that it left alone, of whatever type they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.arrow_columns import held
from support.soak import EXAMPLES

from ray_pipeline.core.arrow_types import as_plain, json_values
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.engine.asking import ask_unit
from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.rundir.account import LlmUsage
from ray_pipeline.stage import AskStage, AskStageConfig, Expand, Row


class Asker:
    """No model: the stage below answers itself."""

    usage = LlmUsage()
    cut_rows: frozenset[str] = frozenset()
    replaced_characters = 0

    def for_row(self, row_id: str) -> Any:
        return None

    def count_waiting(self, rows: Any) -> None:
        pass


class Reverse(AskStage):
    """Reverses the text, makes a second row of one, and fails another."""

    name = "reverse"
    reads = {"text": pa.string()}
    writes = {"text": pa.string(), "words": pa.int64()}
    Config = AskStageConfig

    async def ask(self, row: Row, llm: Any) -> Any:
        if row["text"] == "fail":
            raise AnswerError("empty", "nothing came")
        if row["text"] == "defect":
            raise ZeroDivisionError("by zero")
        made = {**row, "text": row["text"][::-1], "words": 1}
        return Expand(made, [{**made, "words": 2}]) if row["text"] == "twin" else made


def asked(texts: list[str], **more: Any) -> tuple[pa.Table, Any]:
    data = pa.table({"text": texts, **more})
    rows = with_envelope(data, [f"row{i}" for i in range(len(texts))])
    return asyncio.run(ask_unit(Reverse().bound({"llm": "any", "prompt": "any"}), rows, Asker()))  # type: ignore[arg-type]


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_values_of_any_type_are_carried_exactly(data: st.DataObject) -> None:
    column = as_plain(data.draw(held(rows=3)))
    out, account = asked(["abc", "twin", "fail"], any=column)
    assert account.balances and account.created == 1
    assert out["text"].to_pylist() == ["cba", "niwt", "fail", "niwt"]
    expected = column.take(pa.array([0, 1, 2, 1]))
    assert out["any"].type.equals(column.type)
    assert json_values(out["any"], Counter()) == json_values(expected, Counter())
    if "float" not in str(column.type) and "double" not in str(column.type):
        assert out["any"].combine_chunks().equals(expected)  # NaN is not equal to itself


def test_rows_that_spell_a_control_token_are_counted() -> None:
    _, account = asked(["a <|im_end|> b", "plain", "[INST]"], other=["</s>"] * 3)
    assert account.counts == {"rows_with_control_text": 2}
    _, account = asked(["plain"])
    assert account.counts == {}


def test_an_unexpected_exception_fails_its_row_alone() -> None:
    out, account = asked(["abc", "defect", "xyz"])
    assert out["status"].to_pylist() == ["kept", "failed", "kept"]
    assert out["text"].to_pylist() == ["cba", "defect", "zyx"]
    assert "ZeroDivisionError: by zero" in out["reason"][1].as_py()
    assert account.failed == 1 and account.balances
