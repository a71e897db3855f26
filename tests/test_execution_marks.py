"""Every configuration field marked `Execution` was changed, and the rows compared.

`COMPARED` names the test that does it, for each marked field of the jobs' configurations: a new
field without one fails here.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.command import REPOSITORY, TESTS, Command
from support.mock_openai import MockServer
from support.tiny_models import tiny_model, word_tokenizer
from support.toy_run import Toy, make_toy

from ray_pipeline.core.config import Execution, Section
from ray_pipeline.models.embedder import Embedder
from ray_pipeline.models.packaged import resolve
from ray_pipeline.pipeline import load_job
from ray_pipeline.train.student import save

CONFIGS = (
    "qa_distillation/demo",
    "quality_tradeoff/demo",
    "nli_reasoning/demo",
    "prompt_compression/demo",
    "answer_questions/local",
)

HERE = "tests/test_execution_marks.py"
API = f"{HERE}::test_limits_and_patience_of_an_api_change_no_row"
LOCAL = f"{HERE}::test_batches_and_actors_of_a_local_engine_change_no_greedy_answer"
EMBEDDING = f"{HERE}::test_the_size_of_a_batch_moves_a_vector_by_rounding_only"
WORKERS = "tests/jobs/test_qa_decisions.py::test_the_same_rows_with_other_workers"
STEPS = "tests/train/test_batches.py::test_steps_do_not_depend_on_the_size_of_micro_batches"
GREEDY = "tests/evaluate/test_generation.py::test_a_greedy_answer_does_not_depend_on_its_batch"
GRID = "tests/tune/test_grid.py::test_the_grid_makes_what_its_jobs_make_one_by_one"
NOT_HERE = "cannot be compared on a machine without a GPU"
MAY_DIFFER = "another engine may sample another answer; what is stored stays (core/config.py)"
NOT_IN_ROWS = "is no part of what rows are made of"

#: Patterns of keys, the first that fits counts, and where the comparison is or why there is none.
COMPARED = {
    r"llms\.(actors|concurrency|.*_per_minute|timeout_seconds|max_tries|max_backoff_seconds)": API,
    r"llms\.(give_up_after_seconds|usd_per_million|base_url|api_keys_env|headers)": API,
    r"llms\.(batch_size|max_num_seqs|num_cpus)": LOCAL,
    r"llms\.engine": MAY_DIFFER,
    r"llms\.tensor_parallel_size": NOT_HERE,
    r"stages\..*\.(num_gpus|gpu)|llms\.num_gpus": NOT_HERE,
    r"stages\.train-subsets\.flops_per_second": NOT_IN_ROWS,
    r"stages\..*\.(silence|stall_timeout)": NOT_IN_ROWS,
    r"stages\.(train-subsets|search)\.(num_cpus|concurrency)": GRID,
    r"stages\..*\.(actors|num_cpus)": WORKERS,
    r"stages\..*\.batches\.(batch_rows|batch_tokens)": STEPS,
    r"stages\..*\.loop\.checkpoint_every": "tests/train/test_loop.py::"
    "test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one",
    r"stages\.train-subsets\.gradient_checkpointing": "tests/train/test_scratch.py::"
    "test_gradient_checkpointing_changes_no_gradient",
    r"stages\..*\.workers": "tests/train/test_ranks.py::test_two_ranks_train_what_one_trains",
    r"stages\.evaluate(-pairs)?\.batch_(rows|tokens)": GREEDY,
    r"stages\.(evaluate-compressions|score-words)\.batch_tokens": "tests/evaluate/"
    "test_log_probs.py::test_answers_equal_a_plain_forward_pass_for_any_size_of_batch",
    r"stages\.tokenise-compressions\.batch_rows": "tests/stages/compression/"
    "test_training_rows.py::test_the_same_rows_are_made_in_batches_of_any_size",
    r"stages\.score-ifd\.batch_tokens": "tests/stages/scoring/test_ifd.py::"
    "test_batches_and_padding_change_nothing",
    r"stages\.score-(words|candidates)\.batch_tokens": "tests/evaluate/test_log_probs.py::"
    "test_answers_equal_a_plain_forward_pass_for_any_size_of_batch",
    r"stages\.teacher-log-probs\.batch_tokens": "tests/train/test_teacher_cache.py::"
    "test_it_does_not_depend_on_batches_or_the_order_of_rows",
    r"stages\..*\.batch_size": EMBEDDING,
}


def sections(annotation: Any) -> list[type[Section]]:
    """The sections in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in sections(part)]


def marked(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Keys of the fields that are marked, ``llms.actors``."""
    for name, info in section.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        if Execution in info.metadata:
            yield key
            continue
        for inner in sections(info.annotation):
            yield from marked(inner, f"{key}.")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_marked_field_has_its_comparison(config: str) -> None:
    keys = sorted(marked(type(load_job(REPOSITORY / f"configs/{config}.yaml").config)))
    assert "llms.concurrency" in keys
    without = [key for key in keys if not any(re.fullmatch(p, key) for p in COMPARED)]
    assert not without, "marked as execution, and no test compares rows"


@pytest.mark.parametrize("where", sorted({w for w in COMPARED.values() if "::" in w}))
def test_the_comparisons_are_there(where: str) -> None:
    file, _, name = where.partition("::")
    assert f"def {name}(" in (TESTS.parent / file).read_text()


def rows_of(toy: Toy) -> list[dict[str, Any]]:
    return toy.parts("03-whisper").to_pylist()


def toy_ask(folder: Path, **llm: Any) -> Toy:
    folder.mkdir()
    return make_toy(
        folder,
        [f"text {i}" for i in range(30)],
        pipeline="toy_ask",
        llms={"mock": llm},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
    )


def test_limits_and_patience_of_an_api_change_no_row(command: Command, tmp_path: Path) -> None:
    with MockServer(p429=0.1) as server, MockServer() as other:
        api: dict[str, Any] = {"engine": "openai", "model": "m", "api_keys_env": []}
        plain = toy_ask(tmp_path / "a", **api, base_url=server.base_url)
        changed = toy_ask(
            tmp_path / "b",
            # Any variable that the cluster's workers have: this server takes every key.
            **api | {"api_keys_env": ["HF_HUB_OFFLINE"]},
            base_url=other.base_url,
            headers={"X-Team": "${HF_HUB_OFFLINE}"},
            actors=2,
            concurrency=3,
            requests_per_minute=6000,
            tokens_per_minute=10**6,
            timeout_seconds=30,
            max_tries=3,
            max_backoff_seconds=1,
            give_up_after_seconds=60,
            usd_per_million={"prompt": 1, "completion": 1},
        )
        for toy in (plain, changed):
            done = command("run", toy.config_file)
            assert done.code == 0, done.text
    assert rows_of(plain) == rows_of(changed) and len(rows_of(plain)) == 30


def test_batches_and_actors_of_a_local_engine_change_no_greedy_answer(
    command: Command, tmp_path: Path
) -> None:
    # With these weights no answer is empty.
    model = save(tiny_model(seed=19).float(), word_tokenizer(chat=True), tmp_path / "model")
    local: dict[str, Any] = {"engine": "transformers", "model": str(model)}
    local |= {"temperature": 0.0, "max_tokens": 4, "dtype": "float32"}
    plain = toy_ask(tmp_path / "a", **local)
    changed = toy_ask(tmp_path / "b", **local, batch_size=3, max_num_seqs=5, num_cpus=0.5)
    for toy in (plain, changed):
        # Of several lengths, so that batches of another size are padded to other lengths.
        texts = [
            " ".join("abcdef"[: n % 6 + 1]) + " what is the capital" * (n // 3) for n in range(8)
        ]
        toy.source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        prompt = {"user": "Say something about {{ text }}", "answer": {"allow_truncated": True}}
        (toy.config_file.parent / "prompts/ask.yaml").write_text(yaml.safe_dump(prompt))
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
    assert rows_of(plain) == rows_of(changed) and len(rows_of(plain)) == 8
    assert len({row["answer"] for row in rows_of(plain)}) > 4


def test_the_size_of_a_batch_moves_a_vector_by_rounding_only() -> None:
    texts = ["one", "a longer text of several words", "Who wrote Emma?", "x " * 100] * 3
    folder = resolve("all-minilm-l6-v2")
    one, many = (Embedder(folder, batch_size=size).encode(texts) for size in (1, 64))
    np.testing.assert_allclose(one, many, atol=1e-6)
