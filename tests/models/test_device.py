"""Which precision forward passes have."""

from __future__ import annotations

import pytest
import torch

from ray_pipeline.models.device import Precision, autocast


@pytest.mark.parametrize(
    ("precision", "instructions", "low"),
    [
        ("float32", {"avx512_bf16": True}, False),
        ("auto", {"avx512_bf16": True}, False),
        ("bfloat16", {}, True),
        ("bfloat16_if_fast", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("bfloat16_if_fast", {"avx512_bf16": False, "amx_bf16": True}, True),
        ("bfloat16_if_fast", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ("bfloat16_if_fast", {}, False),
    ],
)
def test_a_processor_computes_in_bfloat16_if_told_to_or_if_it_is_fast(
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    instructions: dict[str, bool],
    low: bool,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    with autocast(precision, torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (product.dtype == torch.bfloat16) is low
