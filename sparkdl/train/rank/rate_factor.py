"""What the learning rate is multiplied by: more for larger batches, and gradually so in the first steps.

Pure; it knows batches and steps, and no number of ranks.
"""

from __future__ import annotations

import math

__all__ = ["BASE_BATCH_SIZE", "batch_factor", "rate_factor"]

BASE_BATCH_SIZE = 32
"""The rows of an update that a learning rate is taken to be tuned for: the batch size of Keras' `fit`."""


def batch_factor(lr_scaling: str | None, *, rows: int) -> float:
    """What a rate tuned for BASE_BATCH_SIZE rows is multiplied by, for updates of so many rows.

    Args:
        lr_scaling: "linear": k = rows / BASE_BATCH_SIZE (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, §2.1);
            "sqrt": the root of k (Krizhevsky 2014, https://arxiv.org/abs/1404.5997, §5); None: 1.
    """
    k = rows / BASE_BATCH_SIZE
    return {None: 1.0, "linear": k, "sqrt": math.sqrt(k)}[lr_scaling]


def rate_factor(step: int, *, full: float, warmup_steps: int) -> float:
    """What the rate is multiplied by in a step of the run.

    From a first value it grows by the same amount with each step, and is `full` from step `warmup_steps` on ("gradual
    warmup", Goyal et al. 2017, §2.2). The first value is 1, the user's own rate, where `full` is more than that; else
    there is nothing to start from but a small one: `full / warmup_steps`.

    Args:
        step: from 0, counted since the first epoch began.
        full: the factor after the warm-up.
        warmup_steps: 0 for none.
    """
    if step >= warmup_steps:
        return full
    first = 1.0 if full > 1.0 else full / warmup_steps
    return first + (full - first) * step / warmup_steps
