import numpy as np
import pytest

from ray_pipeline.core.errors import UserError
from ray_pipeline.models import packaged as models
from ray_pipeline.models.embedder import Embedder, _unit_length, is_usable


def test_vectors_have_length_one_or_are_nan_all_through():
    raw = np.array([[3, 4], [np.nan, 1], [np.inf, 1], [0, 0]], np.float32)
    vectors = _unit_length(raw)
    assert vectors.dtype == np.float32
    assert vectors[0].tolist() == pytest.approx([0.6, 0.8])
    assert np.isnan(vectors[1:]).all()
    assert is_usable(vectors).tolist() == [True, False, False, False]


def test_equal_texts_are_embedded_once_and_order_is_kept():
    class Fake(Embedder):
        def _encode(self, texts):
            self.seen = texts
            return np.array([[len(text), 1.0] for text in texts])

    embedder = Fake("folder")
    vectors = embedder.encode(["abc", "a", "abc", ""])
    assert embedder.seen == ["abc", "a", ""]
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[:, 0] / vectors[:, 1]).tolist() == pytest.approx([3, 1, 3, 0])


def test_without_a_model_the_configuration_is_named():
    with pytest.raises(UserError, match=r"embedder\.model"):
        Embedder(None)


@pytest.mark.skipif(not models.is_fetched("all-minilm-l6-v2"), reason="model not fetched")
def test_the_packaged_model_tells_meanings_apart():
    embedder = Embedder(models.resolve("all-minilm-l6-v2"), batch_size=2, device="cpu")
    vectors = embedder.encode(
        ["What is the capital of France?", "Which city is France's capital?", "Who wrote Emma?", ""]
    )
    assert vectors.shape == (4, embedder.dimensions) == (4, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.8 > 0.3 > similar[0, 2]
    assert embedder.encode([]).shape == (0, 384)


@pytest.mark.skipif(not models.is_fetched("all-minilm-l6-v2"), reason="model not fetched")
def test_a_text_that_spells_a_control_token_is_embedded_as_text():
    """Blanks do not change how this model cuts a text, so both are the same letters and signs."""
    embedder = Embedder(models.resolve("all-minilm-l6-v2"), device="cpu")
    spelled, spaced = embedder.encode(["cut [SEP] here [MASK]", "cut [ SEP ] here [ MASK ]"])
    assert spelled == pytest.approx(spaced, abs=1e-5)
