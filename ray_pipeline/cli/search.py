"""The command that searches a corpus with an embedding model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from ray_pipeline.cli.terminal import err, native_output_hidden, out
from ray_pipeline.core.errors import UserError

app = typer.Typer()


@app.command()
def search(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="a folder, a packaged model, a hub id, or a model of a run: RUN:retriever-1",
        ),
    ],
    corpus: Annotated[
        Path,
        typer.Argument(metavar="CORPUS", help="a file of texts: .txt with one per line, .csv, …"),
    ],
    query: Annotated[list[str], typer.Option(metavar="TEXT", help="a query; may be repeated")] = [],  # noqa: B006 - typer copies it
    file: Annotated[
        Path | None,
        typer.Option(help="a file of queries: .txt with one per line, or with a column `query`"),
    ] = None,
    column: Annotated[str, typer.Option(help="column of the corpus that is searched")] = "prompt",
    top: Annotated[int, typer.Option(min=1, help="number of texts for each query")] = 10,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="where the vectors are stored: made if there is none, else checked against model "
            "and corpus; by default they are made anew",
        ),
    ] = None,
    query_prefix: Annotated[
        str, typer.Option(help="text before each query, as the model expects it")
    ] = "",
    context_prefix: Annotated[str, typer.Option(help="text before each text of the corpus")] = "",
) -> None:
    """Find the texts of a corpus that are closest to a query in meaning.

    Results for a file of queries are printed as JSON lines.
    """
    from ray_pipeline.models.packaged import revision
    from ray_pipeline.rundir.models import find_model
    from ray_pipeline.sources.questions import read_questions

    if bool(query) == (file is not None):
        raise UserError('give either --query "a text", which may be repeated, or --file')
    if not all(text.strip() for text in query):
        raise UserError("--query: it is empty: write what is looked for")
    queries = list(query) if file is None else read_questions(file, "query")
    texts = read_questions(corpus, column)
    folder = find_model(model)
    with native_output_hidden():
        from ray_pipeline.models import vector_index
        from ray_pipeline.models.embedder import Embedder

        embedder = Embedder(folder)
        identity = vector_index.identity_of(
            embedder, revision(folder), texts, context_prefix, query_prefix
        )
        if index is not None and index.exists():
            found = vector_index.load(index, identity)
        else:
            found = vector_index.build(embedder, identity, texts, index)
        vectors = embedder.encode([query_prefix + text for text in queries])
        scores, places = found.search(vectors, top)
    if found.cut:
        err.print(
            f"note: {found.cut:,} of {len(texts):,} texts are longer than the model's "
            f"{identity.max_tokens} tokens; their ends are not searched",
            markup=False,
        )
    for text, row, numbers in zip(queries, scores, places, strict=True):
        hits = [
            {"score": round(float(score), 4), "text": found.text(number)}
            for score, number in zip(row, numbers.tolist(), strict=True)
        ]
        if file is not None:
            out.file.write(orjson.dumps({"query": text, "hits": hits}).decode() + "\n")
            continue
        out.file.write(f"{text}\n")
        for place, hit in enumerate(hits, 1):
            out.file.write(f"{place:>4}  {hit['score']:.3f}  {hit['text']}\n")
