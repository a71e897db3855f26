from __future__ import annotations

from pathlib import Path

from support.html_page import HOSTILE, page
from support.made_run import made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.compressed_prompts import read
from ray_pipeline.stages.compression.summarise import Summary


def summary(tokenizer: str = "gpt2-tokenizer") -> Summary:
    made = Summary(tokenizer)
    for number in range(30):
        answer = {"origin": "answer", "text": "x", "tokens": 40, "fault": "longer: 40 tokens"}
        rule = {"origin": "articles", "text": "x", "tokens": 15, "fault": None}
        is_taken = number < 20
        made.add(
            {
                "prompt_tokens": 20,
                "compressed_tokens": 15 if is_taken else None,
                "compression_origin": "articles" if is_taken else None,
                "compression_fault": None if is_taken else "longer: 40 tokens",
                "candidates": [answer, rule] if is_taken else [answer],
            }
        )
    return made


def test_figures_are_shown_with_their_tokenizer_and_a_low_yield_first(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.add_artifact_stage("summarise", summary().figures())
    run.save()
    section = read(ReportReader(run.storage.root))
    assert section is not None
    assert [line.name for line in section.low] == ["answer"]
    assert [(one.name, one.prompts, one.compressed) for one in section.bins] == [
        ("1-16", 0, 20),
        ("17-32", 30, 0),
    ]
    words = page(run).words
    assert words.index("Only 0 % of the candidates of answer can be used") < words.index(
        "20 of 30 prompts have a usable compression"
    )
    for shown in ("Tokens of gpt2-tokenizer", "0.7500", "0.8333", "0.7474", "longer 30", "73.1 %"):
        assert shown in words


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.add_artifact_stage("summarise", summary(HOSTILE[0]).figures())
    run.save()
    assert not [tag for tag, _ in page(run).tags if tag == "script"]


def test_a_run_without_the_stage_has_no_section(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    assert read(ReportReader(run.storage.root)) is None
