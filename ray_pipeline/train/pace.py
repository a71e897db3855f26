"""How long a training lasts and how often it is looked at, where that depends on its rows."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.train.batches import BatchPlan
from ray_pipeline.train.loop import LoopConfig


@dataclass(frozen=True)
class Pace:
    """What a loop's configuration leaves to the rows. All of it follows from the batch plan.

    Attributes:
        budget_tokens: tokens after which the training ends, in place of epochs; the last step is
            the one that reaches them. Padding does not count.
        evaluations: how many there are, evenly spread, the last one at the end; None: as the
            configuration says.
        warmup_share: of all steps, that a warm-up configured in steps takes at most; None: it
            takes as many as it says.
    """

    budget_tokens: int | None = None
    evaluations: int | None = None
    warmup_share: float | None = None

    def of(self, config: LoopConfig, plan: BatchPlan) -> LoopConfig:
        """The configuration for the rows of a plan, so that its schedule knows its end."""
        if self.budget_tokens is not None:
            steps, epochs = plan.reaching(self.budget_tokens)
            config = config.model_copy(update={"epochs": epochs, "max_steps": steps})
        total = plan.total_steps(config.epochs)
        if config.max_steps is not None:
            total = min(total, config.max_steps)
        changed: dict[str, float] = {}
        if self.evaluations is not None:
            changed["evaluate_every"] = -(-total // self.evaluations)
        if self.warmup_share is not None and config.warmup >= 1:
            changed["warmup"] = min(config.warmup, float(int(self.warmup_share * total)))
        return config.model_copy(update=changed)
