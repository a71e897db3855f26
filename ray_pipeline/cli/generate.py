"""The command that asks a model questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer

from ray_pipeline.cli.terminal import native_output_hidden, out
from ray_pipeline.models.thinking import split_thinking

app = typer.Typer()

Engine = Literal["transformers", "vllm"]


@app.command()
def generate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="a folder, a packaged model, a hub id, or a model of a run: RUN:student",
        ),
    ],
    prompt: Annotated[
        list[str], typer.Option(metavar="TEXT", help="a question; may be repeated")
    ] = [],  # noqa: B006 - typer copies it
    file: Annotated[
        Path | None,
        typer.Option(
            help="a file of questions: .txt with one per line, or .csv, .jsonl, ... with a column "
            "`question`"
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="maximum number of tokens per answer")
    ] = 128,
    temperature: Annotated[
        float,
        typer.Option(min=0, help="sampling temperature; 0 always takes the most likely token"),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, help="random seed for sampling (temperature above 0)")
    ] = 0,
    engine: Annotated[Engine, typer.Option(help="library that runs the model")] = "transformers",
) -> None:
    """Ask a model questions, formatted as in its training.

    Answers to a file of questions are printed as JSON lines.
    """
    from ray_pipeline.rundir.models import find_model
    from ray_pipeline.sources.questions import questions_of

    questions = questions_of(prompt, file)
    folder = find_model(model)
    with native_output_hidden():
        from ray_pipeline.evaluate.answers import answers
        from ray_pipeline.models.decoding import Decoding

        decoding = Decoding(max_tokens, temperature, seed)
        found = answers(folder, questions, decoding, engine)
        for question, answer in zip(questions, found, strict=True):
            out.file.write((_json(question, answer) if file is not None else answer) + "\n")


def _json(question: str, text: str) -> str:
    """A line with a question and its answer, and with what a reasoning model thought before."""
    thinking, answer = split_thinking(text)
    line = {"question": question, "answer": answer}
    return orjson.dumps(line | ({"thinking": thinking} if thinking else {})).decode()
