"""The command that shortens prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import orjson
import typer

from ray_pipeline.cli.terminal import err, native_output_hidden, out
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_pipeline.stages.compression.compressor import ShortPrompt

app = typer.Typer()

#: Files that are one prompt as a whole.
_WHOLE = (".md", ".markdown", ".json", ".html", ".xml", ".yaml", ".yml")


@app.command()
def compress(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="a file with a prompt on each line (.txt), .jsonl with a key `prompt`, or one "
            "prompt as a whole (.md, .json, ...); without it, or with -, standard input",
        ),
    ] = None,
    by: Annotated[
        Literal["rules", "surprise", "trained"],
        typer.Option(
            help="rules: articles and filler, with a rate or target also stop words; surprise: the "
            "words that a small language model predicts best; trained: what a model of a run writes"
        ),
    ] = "rules",
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="share of the tokens that may be left: above 0, up to 1"
        ),
    ] = None,
    target_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="tokens that may be left of each prompt")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="NATS", help="leave out words that surprise the model less than this"),
    ] = None,
    protect: Annotated[
        list[str],
        typer.Option(
            metavar="REGEX",
            help="what must stay, besides code, JSON, URLs, quotations, numbers, negations, names "
            "and constraints; may be repeated",
        ),
    ] = [],  # noqa: B006 - typer copies it
    tokenizer: Annotated[
        str, typer.Option(help="model whose tokenizer counts tokens: that of the model you pay for")
    ] = "gpt2-tokenizer",
    model: Annotated[
        str | None,
        typer.Option(
            help="of --by trained: a folder, or RUN:NAME; of --by surprise: a causal language "
            "model, by default smollm2-135m-instruct"
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="take the input as one prompt, whatever its name")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON lines, with tokens and notes")
    ] = False,
) -> None:
    """Shorten prompts by leaving out whole words, and say how many tokens that saves.

    Where nothing can be saved the prompt itself comes back, and is marked: in JSON lines by `note`,
    else on standard error.
    """
    texts = _prompts(file, whole)
    with native_output_hidden():
        from ray_pipeline.stages.compression.compressor import compress as shorten

        made = shorten(
            texts,
            by,
            rate=rate,
            target_tokens=target_tokens,
            threshold=threshold,
            protect=protect,
            tokenizer=tokenizer,
            model=model,
        )
        for number, short in enumerate(made, start=1):
            out.file.write((_json(short, tokenizer) if as_json else short.text) + "\n")
            if short.note is not None and not as_json:
                what = "prompt" if len(made) == 1 else f"prompt {count(number)}"
                state = "as it was" if short.is_unchanged else "not as short"
                err.file.write(f"{what}: {state}: {short.note}\n")
        err.file.write(_total(made, tokenizer) + "\n")


def _prompts(file: Path | None, whole: bool) -> list[str]:
    """The prompts of a file or of standard input.

    Raises:
        UserError: there is no such file, it is not text, or there is no prompt in it.
    """
    where = "standard input" if file is None or str(file) == "-" else str(file)
    try:
        raw = sys.stdin.buffer.read() if where == "standard input" else Path(where).read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 at byte {error.start}: convert it, as with iconv"
        ) from None
    suffix = "" if file is None else file.suffix.lower()
    if whole or suffix in _WHOLE:
        prompts = [text.removesuffix("\n")] if text.strip() else []
    elif suffix == ".jsonl":
        prompts = [_of_json(line, f"{where}, line {n}") for n, line in _lines(text)]
    else:
        prompts = [line for _, line in _lines(text)]
    if not prompts:
        raise UserError(f"{where}: there is no prompt in it: write one on each line")
    return prompts


def _lines(text: str) -> list[tuple[int, str]]:
    lines = enumerate(text.split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]


def _of_json(line: str, where: str) -> str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        keys = ", ".join(map(repr, row)) if isinstance(row, dict) else "no object"
        raise UserError(f"{where}: no text under the key 'prompt', found {keys}")
    return prompt


def _json(short: ShortPrompt, tokenizer: str) -> str:
    line = {
        "prompt": short.original,
        "compressed_prompt": short.text,
        "prompt_tokens": short.original_tokens,
        "compressed_tokens": short.tokens,
        "tokenizer": tokenizer,
        "note": short.note,
    }
    return orjson.dumps(line).decode()


def _total(made: Sequence[ShortPrompt], tokenizer: str) -> str:
    before = sum(short.original_tokens for short in made)
    after = sum(short.tokens for short in made)
    ratio = f" ({after / before:.3f} of them)" if before else ""
    same = sum(short.is_unchanged for short in made)
    tokens = f"{count(before)} → {count(after)} tokens of {tokenizer}{ratio}"
    prompts = "1 prompt" if len(made) == 1 else f"{count(len(made))} prompts"
    return f"{prompts}, {tokens}; {count(same)} as they were"
