"""A compressor is trained in each form, measured before and after, and can be loaded and used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.stored_parts import put_part
from support.tiny_models import tiny_labeller, tiny_model, tiny_seq2seq, word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.rundir.trainings import read_curve
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.compression.measure import MeasurePrompts
from ray_pipeline.stages.compression.tokens import token_counter
from ray_pipeline.stages.compression.train import TrainCompressor
from ray_pipeline.stages.compression.trained import Method, TrainedCompressor, load_compressor
from ray_pipeline.stages.compression.training_rows import TokeniseCompressions
from ray_pipeline.train.student import save

#: Every "the" goes. Twelve prompts of the words that the tiny tokenizer has.
PROMPTS = [f"what is the {a} of the {b} ?" for a in "abc" for b in ("d", "e", "f", "capital")]
SHORT = [prompt.replace("the ", "") for prompt in PROMPTS]


def base_of(form: str, folder: Path) -> str:
    tokenizer = word_tokenizer(chat=form == "causal")
    if form != "causal":
        from tokenizers.processors import TemplateProcessing

        around = "<|user|> $A <eos>" if form == "keep_or_drop" else "$A <eos>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=around, special_tokens=[("<|user|>", 0), ("<eos>", 4)]
        )
    kinds: dict[str, Any] = {
        "causal": lambda size: tiny_model("llama", size),
        "seq2seq": lambda size: tiny_seq2seq("t5", size),
        "keep_or_drop": tiny_labeller,
    }
    save(kinds[form](len(tokenizer)).float(), tokenizer, folder)
    return str(folder)


def trained(form: str, where: Path, **loop: Any) -> tuple[dict[str, Any], Storage]:
    base = base_of(form, where / "base")
    measure, rows, stage = MeasurePrompts(), TokeniseCompressions(), TrainCompressor()
    measure.config = measure.config_type(tokenizer="base")
    rows.config = rows.config_type(model="base", form=form, prefix="")
    stage.config = stage.config_type(
        loop={"learning_rate": 0.02, "epochs": 30, "evaluate_every": 90, "patience": None, **loop},
        batches={"step_rows": 4},
        measured_rows=2,
    )
    settings = Settings(stages=(measure, rows, stage), models={"base": base})
    rows, stage = rows.bound(rows.config, settings), stage.bound(stage.config, settings)
    rows.load()
    table = pa.table(
        {
            "prompt": PROMPTS,
            "compressed_prompt": SHORT,
            "split": ["train"] * 9 + ["validation"] * 3,
        }
    )
    made = rows.apply(with_envelope(table, [f"r{i}" for i in range(12)]), Counter())
    assert made["reason"].null_count == 12
    run = where / "run"
    run.mkdir()
    put_part(run / "p.parquet", made)
    storage = Storage(str(run))
    stage.check()
    figures = stage.make(
        StoredRows(storage, ("p.parquet",), "d"), Workplace(storage, "work", lambda line: None)
    )
    return figures, storage


@pytest.mark.parametrize("form", ["keep_or_drop", "seq2seq", "causal"])
def test_a_compressor_is_measured_before_and_after_and_kept(tmp_path: Path, form: str) -> None:
    figures, storage = trained(form, tmp_path)
    before, after = figures["evaluations"][0], figures["evaluations"][-1]
    assert before["step"] == 0 and after["step"] == 90
    assert after["validation_loss"] < before["validation_loss"]
    assert before["measured_rows"] == 2 and before["best"] is False
    # The file says the same, and each step is in it once.
    steps = [line["step"] for line in read_curve(storage, "work/curve.jsonl") if "loss" in line]
    assert steps == list(range(1, 91))
    folder = tmp_path / "run" / "models" / "compressor"
    card = (folder / "README.md").read_text()
    assert "before |" in card and "(best) |" in card and form in card
    compress = load_compressor(str(folder))
    assert isinstance(compress, TrainedCompressor)
    found = [one.text for one in compress(PROMPTS[9:])]
    if form == "keep_or_drop":
        assert found == SHORT[9:]
        assert after["violations"] == 0 and after["rougeL"] == 1


def test_words_go_in_the_order_of_their_probability_at_a_rate(tmp_path: Path) -> None:
    trained("keep_or_drop", tmp_path)
    folder = str(tmp_path / "run" / "models" / "compressor")
    compress, count = load_compressor(folder), token_counter(str(tmp_path / "base"))
    (same,) = compress.at_lengths(PROMPTS[:1], [9], count)
    (both,) = compress.at_lengths(PROMPTS[:1], [6], count)
    assert same == PROMPTS[0] and both == SHORT[0]
    with pytest.raises(UserError, match="only a model that keeps or drops words takes a rate"):
        TrainedCompressor(compress.model, compress.tokenizer, Method("causal")).at_lengths(
            ["a"], [1], count
        )


def test_a_folder_that_was_not_trained_to_compress_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not trained to compress"):
        load_compressor(base_of("causal", tmp_path / "base"))
