"""Exact search in stored vectors, which know the model that made them.

An index is a folder: ``vectors.npy`` (float32, memory-mapped), ``texts.arrow``, and ``index.json``
with the identity of the model and of the texts. It is written last: without it, there is no index.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from ray_pipeline.core.durable_files import make_folder, replace_folder
from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.models.embedder import Embedder, Vectors, is_usable

IDENTITY, VECTORS, TEXTS = "index.json", "vectors.npy", "texts.arrow"
#: Raised when an index of this code differs from that of older code.
FORMAT = 1
#: Texts that are embedded at a time; and vectors that a query is multiplied with at a time.
_TEXTS_AT_ONCE, _VECTORS_AT_ONCE = 4_096, 65_536


@dataclass(frozen=True)
class IndexIdentity:
    """What the vectors of an index depend on.

    Attributes:
        weights: identity of the model's files (`packaged.revision`).
        pooling: modules of the model after the transformer, with their settings.
        max_tokens: tokens of a text that are read.
        context_prefix: text before each context.
        query_prefix: text before each query.
        dimensions: of a vector.
        texts: number of texts.
        corpus: hash of the texts.
        dtype: of the stored vectors, which have length 1.
        format: of the files.
    """

    weights: str
    pooling: str
    max_tokens: int | None
    context_prefix: str
    query_prefix: str
    dimensions: int
    texts: int
    corpus: str
    dtype: str = "float32"
    format: int = FORMAT


class VectorIndex:
    """Texts with their vectors, which are searched whole.

    Args:
        identity: of the model and the texts.
        vectors: of length 1; float32 [texts, dimensions], in memory or mapped.
        texts: that they are of.
        cut: texts that were longer than the model reads.
    """

    def __init__(
        self, identity: IndexIdentity, vectors: Vectors, texts: Any, cut: int | None = None
    ) -> None:
        self.identity, self.vectors, self.texts, self.cut = identity, vectors, texts, cut

    def search(
        self, queries: Vectors, number: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Cosines and numbers of the best texts of each query, best first.

        Equal cosines are in the order of the texts. Memory does not grow with the texts.

        Args:
            queries: of length 1; float32 [queries, dimensions].
            number: of texts for each query.
        """
        number = min(number, len(self.vectors))
        scores = np.empty((len(queries), 0), np.float32)
        places = np.empty((len(queries), 0), np.int64)
        for first in range(0, len(self.vectors), _VECTORS_AT_ONCE):
            block = queries @ self.vectors[first : first + _VECTORS_AT_ONCE].T
            kept = min(number, block.shape[1])
            best = np.argpartition(-block, kept - 1, axis=1)[:, :kept]
            # What ties with the last one that is kept is in the order of the texts, too.
            scores = np.concatenate([scores, np.take_along_axis(block, best, axis=1)], axis=1)
            places = np.concatenate([places, best + first], axis=1)
            order = np.lexsort((places, -scores), axis=1)[:, :number]
            scores = np.take_along_axis(scores, order, axis=1)
            places = np.take_along_axis(places, order, axis=1)
        return scores, places

    def text(self, number: int) -> str:
        """A text by its number."""
        text: str = self.texts[number].as_py()
        return text


def identity_of(
    embedder: Embedder, weights: str, texts: Sequence[str], context_prefix: str, query_prefix: str
) -> IndexIdentity:
    """The identity of an index of these texts by this model."""
    digest = xxhash.xxh3_128()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return IndexIdentity(
        weights=weights,
        pooling=embedder.pooling,
        max_tokens=embedder.token_limit,
        context_prefix=context_prefix,
        query_prefix=query_prefix,
        dimensions=embedder.dimensions,
        texts=len(texts),
        corpus=digest.hexdigest(),
    )


def build(
    embedder: Embedder, identity: IndexIdentity, texts: Sequence[str], folder: Path | None
) -> VectorIndex:
    """Embed texts; stored in a folder, or only in memory where that is None.

    Raises:
        RunError: the index cannot be written.
        UserError: a text has no finite vector.
    """
    table = pa.array(texts, pa.large_string())
    shape = (len(texts), identity.dimensions)
    if folder is None:
        vectors = np.empty(shape, np.float32)
        cut = _fill(vectors, embedder, identity.context_prefix, texts)
        return VectorIndex(identity, vectors, table, cut)
    made = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        make_folder(made)
        mapped = np.lib.format.open_memmap(made / VECTORS, "w+", np.float32, shape)
        cut = _fill(mapped, embedder, identity.context_prefix, texts)
        mapped.flush()
        with pa.OSFile(str(made / TEXTS), "wb") as file:
            whole = pa.table({"text": table})
            with pa.ipc.new_file(file, whole.schema) as writer:
                writer.write_table(whole)
        (made / IDENTITY).write_text(json.dumps({**asdict(identity), "cut": cut}, indent=1))
        replace_folder(made, folder)
    except OSError as error:
        raise RunError(f"the index cannot be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return load(folder, identity)


def _fill(vectors: Any, embedder: Embedder, prefix: str, texts: Sequence[str]) -> int:
    cut = 0
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        part = [prefix + text for text in texts[first : first + _TEXTS_AT_ONCE]]
        found = embedder.encode(part)
        usable = is_usable(found)
        if not usable.all():
            number = first + int(np.argmin(usable))
            raise UserError(f"text {number + 1} has no finite vector: {texts[number][:80]!r}")
        vectors[first : first + len(part)] = found
        cut += embedder.cut_texts(part)
    return cut


def load(folder: Path, expected: IndexIdentity) -> VectorIndex:
    """Open a stored index.

    Args:
        folder: of the index.
        expected: what it has to be of.

    Raises:
        UserError: it is of another model or of other texts, or no index; the message says what
            differs and how to fix it.
    """
    try:
        stored = json.loads((folder / IDENTITY).read_text())
        cut = stored.pop("cut", None)
        identity = IndexIdentity(**stored)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder}: not an index of this version ({error}): delete the folder, and it is made "
            "again"
        ) from None
    for name, was in asdict(identity).items():
        now = getattr(expected, name)
        if was != now:
            raise UserError(f"{folder}: {_DIFFERS[name].format(was=was, now=now)}: {_FIX}")
    try:
        vectors = np.load(folder / VECTORS, mmap_mode="r")
        texts = pa.ipc.open_file(pa.memory_map(str(folder / TEXTS))).read_all()["text"]
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{folder}: the index is damaged ({error}): delete the folder") from None
    if vectors.shape != (identity.texts, identity.dimensions):
        raise UserError(f"{folder}: the index is damaged (vectors {vectors.shape}): delete it")
    return VectorIndex(identity, vectors, texts, cut)


_FIX = "name another folder with --index, or delete this one to make it again"
_DIFFERS = {
    "format": "was written by another version (format {was}, this one writes {now})",
    "dimensions": "its vectors have {was} dimensions, the model's have {now}",
    "weights": "was made by another model (weights {was}, this one's are {now})",
    "pooling": "was made with another pooling ({was}, now {now})",
    "max_tokens": "was made with texts of at most {was} tokens, now {now}",
    "context_prefix": "was made with the context prefix {was!r}, now {now!r}",
    "query_prefix": "was made for the query prefix {was!r}, now {now!r}",
    "texts": "is of {was} texts, the corpus has {now}",
    "corpus": "is of other texts than the corpus has now",
    "dtype": "holds {was}, expected {now}",
}
