from __future__ import annotations

import pyarrow as pa

from ray_pipeline.core.rows import ENVELOPE, error_reason, fail, failed, reset_marks, with_envelope


def rows() -> pa.Table:
    return with_envelope(pa.table({"text": ["a", "b"], "made": ["x", "y"]}), ["1", "2"])


def test_failed_rows_bear_their_stage_and_the_schema_stays() -> None:
    reasons = pa.array(["source:type: no number", None])
    out = fail(rows(), reasons.is_valid(), reasons, "source")
    assert out.schema == rows().schema
    (row,) = failed(out).to_pylist()
    assert (row["row_id"], row["status"], row["stage"]) == ("1", "failed", "source")
    assert row["reason"] == "source:type: no number"
    assert out.slice(1).to_pylist() == rows().slice(1).to_pylist()


def test_a_retried_row_is_as_it_came_in() -> None:
    out = fail(rows(), pa.array([True, False]), error_reason(ValueError("not\nthis")), "stage")
    assert failed(out)["reason"].to_pylist() == ["error:ValueError: not this"]
    again = reset_marks(failed(out), ["text", *ENVELOPE.names])
    assert again.to_pylist() == rows().slice(0, 1).drop_columns(["made"]).to_pylist()
