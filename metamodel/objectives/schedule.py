"""The learning rate of every objective: linear warmup, then cosine to zero."""

import math
from typing import Any

import torch


def warmup_cosine(optimizer: torch.optim.Optimizer, n_steps: int, warmup: float) -> dict[str, Any]:
    """What `configure_optimizers` returns.

    Args:
        n_steps: of the whole training.
        warmup: share of them in which the rate rises.
    """
    n_warmup = max(1, round(warmup * n_steps))

    def rate(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
