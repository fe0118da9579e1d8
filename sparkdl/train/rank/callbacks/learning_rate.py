"""Multiply the learning rates of a model's optimizers, without changing the user's rates.

Runs in rank processes. An optimizer uses the product while it applies gradients, and at no other time: its variables
and schedules, what callbacks read and set, and what is saved remain the user's rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.exact.optimizers import optimizers_of, updating_optimizers
from sparkdl.train.exact.patch import all_patched

__all__ = ["LearningRates", "batch_factor", "rate_factor"]


class LearningRates:
    """Scale and warm up the learning rates of a run.

    Args:
        model: a built model.
        lr_scaling, warmup_epochs, global_batch_size: as in TrainConfig.
        steps: the steps of one epoch.

    Raises ModelError for an optimizer whose rate cannot be multiplied.
    """

    def __init__(
        self, model: Any, *, lr_scaling: str | None, warmup_epochs: float, global_batch_size: int, steps: int
    ) -> None:
        self._shown = model.optimizer
        self._warmup_steps = max(1, round(warmup_epochs * steps)) if warmup_epochs else 0
        self._factors: list[_Factor] = []
        if lr_scaling is None and not self._warmup_steps:
            return
        for optimizer in (one for outer in optimizers_of(model) for one in updating_optimizers(outer)):
            if type(optimizer).learning_rate is not keras.optimizers.Optimizer.learning_rate:
                raise ModelError(
                    f"optimizer {optimizer.name!r} ({type(optimizer).__name__}) overrides learning_rate, "
                    "which lr_scaling and warmup_epochs cannot multiply; leave them out"
                )
            # The batch that the scaling rules speak of is the rows of one update, not of one step.
            rows = global_batch_size * (optimizer.gradient_accumulation_steps or 1)
            self._factors.append(_Factor(optimizer, batch_factor(lr_scaling, rows=rows)))

    def multiplied(self) -> AbstractContextManager[None]:
        """Let the optimizers apply gradients with the multiplied rates within the block."""
        return all_patched((factor.optimizer, factor.methods()) for factor in self._factors)

    def start_step(self, step: int) -> None:
        """Set the factors for a step of the run, counted from 0 since the first epoch began."""
        for factor in self._factors:
            factor.set(rate_factor(step, full=factor.full, warmup_steps=self._warmup_steps))

    def of_last_step(self) -> dict[str, float]:
        """Return the rate of `model.optimizer` in the last step as `lr`; of combined optimizers each as `lr_<name>`."""
        optimizers = updating_optimizers(self._shown)
        factors = {id(factor.optimizer): factor.value for factor in self._factors}
        rates = [_users_rate(optimizer) * factors.get(id(optimizer), 1.0) for optimizer in optimizers]
        names = ["lr"] if len(rates) == 1 else [f"lr_{optimizer.name}" for optimizer in optimizers]
        return dict(zip(names, rates, strict=True))


class _Factor:
    """Hold the factor by which one optimizer's rate is multiplied.

    Attributes:
        full: the factor after the warm-up.
        value: the factor of the current step.
    """

    def __init__(self, optimizer: Any, full: float) -> None:
        self.optimizer = optimizer
        self.full = full
        self.value = 1.0
        self._variable = tf.Variable(self.value, trainable=False, dtype=tf.float64)
        self._applying = False

    def set(self, value: float) -> None:
        if value != self.value:
            self.value = value
            self._variable.assign(value)

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Return the methods that replace the optimizer's own, by name."""
        own_apply, own_rate = self.optimizer.apply, self.optimizer._get_current_learning_rate

        def apply(*args: Any, **kwargs: Any) -> Any:
            self._applying = True
            try:
                return own_apply(*args, **kwargs)
            finally:
                self._applying = False

        def rate() -> Any:
            if not self._applying:
                return own_rate()
            users = keras.ops.convert_to_tensor(own_rate())
            return users * tf.cast(self._variable, users.dtype)

        # All of Keras' optimizers, their weight decay included, read their rate through `_get_current_learning_rate`.
        return {"apply": apply, "_get_current_learning_rate": rate}


def _users_rate(optimizer: Any) -> float:
    """Return the rate of the last step as the user gave it, without the factor."""
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        # The optimizer has already counted the step.
        rate = rate(keras.ops.maximum(optimizer._iterations - 1, 0))
    else:
        rate = optimizer.learning_rate
    return float(keras.ops.convert_to_numpy(rate))


BASE_BATCH_SIZE = 32
"""The rows of an update that a learning rate is assumed to be tuned for: the default batch size of Keras' `fit`."""


def batch_factor(lr_scaling: str | None, *, rows: int) -> float:
    """Return the factor for a rate that was tuned for BASE_BATCH_SIZE rows, when an update has `rows` rows.

    Args:
        lr_scaling: "linear": k = rows / BASE_BATCH_SIZE (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, §2.1);
            "sqrt": the root of k (Krizhevsky 2014, https://arxiv.org/abs/1404.5997, §5); None: 1.
    """
    k = rows / BASE_BATCH_SIZE
    return {None: 1.0, "linear": k, "sqrt": math.sqrt(k)}[lr_scaling]


def rate_factor(step: int, *, full: float, warmup_steps: int) -> float:
    """Return the factor by which the rate is multiplied in a step of the run.

    From a first value the factor grows by the same amount with each step, and is `full` from step `warmup_steps` on
    ("gradual warmup", Goyal et al. 2017, §2.2). The first value is 1, the user's rate, if `full` is more than 1; else
    it is a small one: `full / warmup_steps`. Steps are counted from 0 since the first epoch began.
    """
    if step >= warmup_steps:
        return full
    first = 1.0 if full > 1.0 else full / warmup_steps
    return first + (full - first) * step / warmup_steps
