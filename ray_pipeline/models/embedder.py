"""Sentence embeddings, for every stage that compares texts by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.hub import at_commit

Vectors = npt.NDArray[np.float32]


class Embedder:
    """A sentence-transformers model, loaded by the first `encode` that has a text.

    Args:
        folder: local folder or hub id of the model (`Settings.embedder`).
        batch_size: texts per forward pass.
        device: ``cpu``, ``cuda``, ...; None: a GPU if there is one.
        bfloat16: multiply matrices in bfloat16, on a processor with instructions for it. Changes
            the third digit of vectors.
        max_tokens: tokens of a text that are read; None: as many as in the model's training.
    """

    def __init__(
        self,
        folder: str | None,
        batch_size: int = 64,
        device: str | None = None,
        bfloat16: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        if folder is None:
            raise UserError("an embedding model is needed: set embedder.model")
        self.folder = folder
        self.batch_size = batch_size
        self.device = device
        self.bfloat16 = bfloat16
        self.max_tokens = max_tokens
        self._model: Any = None

    @property
    def dimensions(self) -> int:
        """Number of dimensions of a vector. Loads the model."""
        return int(self._loaded().get_embedding_dimension())

    @property
    def token_limit(self) -> int | None:
        """Tokens of a text that are read; None: any number. Loads the model."""
        limit: int | None = self._loaded().max_seq_length
        return limit

    @property
    def pooling(self) -> str:
        """The model's modules after the transformer, with their settings. Loads the model."""
        modules = list(self._loaded())[1:]
        return "; ".join(
            f"{type(module).__name__} {getattr(module, 'get_config_dict', dict)()}"
            for module in modules
        )

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One unit vector per text, as float32 ``[len(texts), dimensions]``.

        Where the model's output is not finite, the row is NaN: see `is_usable`. Equal texts are
        embedded once and get equal vectors. The last digits of a vector depend on the other texts
        of its batch: round before you compare.
        """
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        unique = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        vectors = _unit_length(self._encode(list(unique)))
        return vectors[[unique[text] for text in texts]]

    def cut_texts(self, texts: Sequence[str]) -> int:
        """The number of texts that are longer than the model reads: their ends are not embedded."""
        if not texts:
            return 0
        model, limit = self._loaded(), self.token_limit
        if limit is None:
            return 0
        # A token has one character at least: most texts need not be counted.
        long = [text for text in texts if len(text) > limit - 2]
        if not long:
            return 0
        ids = model.tokenizer(long, truncation=False, verbose=False)["input_ids"]
        return sum(len(tokens) > limit for tokens in ids)

    def _encode(self, texts: list[str]) -> npt.NDArray[Any]:
        model = self._loaded()
        with self._precision():
            # Sorts by length itself, so that a batch holds texts of about one length.
            encoded: Any = model.encode(
                texts,
                batch_size=self.batch_size,
                convert_to_numpy=False,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        vectors: npt.NDArray[Any] = encoded.float().cpu().numpy()
        return vectors

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.bfloat16:
            return nullcontext()
        import torch

        return torch.autocast(self._loaded().device.type, torch.bfloat16)

    def _loaded(self) -> Any:
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            name, commit = at_commit(self.folder)
            self._model = SentenceTransformer(name, device=self.device, **commit)
            # A text that spells a control token, such as [SEP], has it as text.
            self._model.tokenizer.split_special_tokens = True
            if self.max_tokens is not None:
                self._model.max_seq_length = self.max_tokens
        return self._model


def is_usable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which rows of `Embedder.encode` are finite vectors; bool ``[rows]``."""
    return np.asarray(np.isfinite(vectors).all(axis=1), np.bool_)


def _unit_length(vectors: npt.NDArray[Any]) -> Vectors:
    """The vectors scaled to length 1; NaN where that is impossible (NaN, infinity, or zeros)."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        unit: Vectors = (vectors / lengths).astype(np.float32)
    unit[~(np.isfinite(lengths) & (lengths > 0))[:, 0]] = np.nan
    return unit
