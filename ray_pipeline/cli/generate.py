"""The command that asks a model questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer

from ray_pipeline.cli.terminal import native_output_hidden, out

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
        list[str], typer.Option(metavar="TEXT", help="a question; may be given several times")
    ] = [],  # noqa: B006 - typer copies it
    file: Annotated[
        Path | None,
        typer.Option(
            help="a file of questions: .txt, one a line; .csv, .jsonl, ...: the column `question`"
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="tokens of an answer, at most")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 always takes the likeliest token")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="for sampling, above temperature 0")] = 0,
    engine: Annotated[Engine, typer.Option(help="what runs the model")] = "transformers",
) -> None:
    """Ask a model questions, in its training format. Answers to a file come as JSON lines."""
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


def _json(question: str, answer: str) -> str:
    return orjson.dumps({"question": question, "answer": answer}).decode()
