"""How likely another, better model finds a completion: a measure of language without a judge."""

from __future__ import annotations

from typing import Any

import torch


class ReferenceModel:
    """A causal language model that reads what others wrote.

    Args:
        folder: local folder or hub id.
        device: ``cpu`` or ``cuda``.
        dtype: of its weights.

    Raises:
        UserError: there is no such model, or it has no tokenizer.
    """

    def __init__(self, folder: str, device: str, dtype: torch.dtype) -> None:
        from ray_pipeline.evaluate.model_text import load_tokenizer
        from ray_pipeline.train.student import load

        self.tokenizer = load_tokenizer(folder)
        self.model: Any = load(folder).to(device, dtype).eval()
        self.positions = getattr(self.model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def nats_per_token(self, instruction: str, completion: str) -> float | None:
        """Mean cross-entropy of a completion's tokens after its instruction; None: it is empty.

        The two stand on a line each, without a chat template: what is asked is how well it reads.
        Tokens beyond the model's last position are left out.
        """
        if not completion.strip():
            return None
        before = self.tokenizer(f"{instruction.strip()}\n")["input_ids"]
        rest = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*before, *rest][: self.positions]], device=self.model.device)
        if ids.shape[1] <= len(before) or not before:
            return None
        scores = self.model(input_ids=ids).logits[0, len(before) - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(scores, ids[0, len(before) :])
        return float(loss) if torch.isfinite(loss) else None
