"""Make Keras reduce and compile rightly where an optimizer is wrapped by `DistributedOptimizer`.

Runs in rank processes whose program imports Horovod's interface for Keras; in no other process is Keras changed. Keras
wraps optimizers, and chooses how a step is compiled, in places that no attribute of an optimizer reaches.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras

from sparkdl.compat.horovod_keras.optimizer import distributed_apply
from sparkdl.errors import ConfigError
from sparkdl.train.exact.optimizers import inner_optimizers

__all__ = ["hook_keras"]

log = logging.getLogger(__name__)


@functools.cache
def hook_keras() -> None:
    """Replace the methods, once in a process."""
    _replace(keras.optimizers.LossScaleOptimizer, "apply", _reduce_before_the_finite_check)
    _replace(keras.Model, "make_train_function", _keep_horovod_out_of_xla)
    _replace(keras.Model, "compile", _take_the_old_argument)


def _replace(owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a method in the class that defines it: Keras compares the methods of subclasses with that one."""
    owner = next(one for one in owner.__mro__ if name in vars(one))
    original = vars(owner)[name]
    setattr(owner, name, functools.wraps(original)(make(original)))


def _reduce_before_the_finite_check(original: Callable[..., Any]) -> Callable[..., Any]:
    """Reduce gradients before a `LossScaleOptimizer` looks at them, where it has wrapped a wrapped optimizer.

    `Model.compile` does that for the policy mixed_float16. Otherwise each rank would look at its own gradients, and
    ranks that skip a step would leave the others waiting.
    """

    def apply(self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        inner = distributed_apply(self.inner_optimizer)
        if inner is None:
            original(self, grads, trainable_variables)
            return
        if inner.passes is not None:
            raise ConfigError(
                f"backward_passes_per_step={inner.passes.steps} must be 1 with a LossScaleOptimizer, whose scale would "
                "change between the passes; use gradient_accumulation_steps of the optimizer within it"
            )
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        reduced = inner.reduced(grads, trainable_variables)
        with inner.suspended():
            original(self, reduced, trainable_variables)

    return apply


def _keep_horovod_out_of_xla(original: Callable[..., Any]) -> Callable[..., Any]:
    """Compile steps without XLA, which has no form of Horovod's operations; Keras uses XLA wherever it finds a GPU."""

    def make_train_function(self: Any, force: bool = False) -> Any:
        optimizers = (self.optimizer, *inner_optimizers(self.optimizer))
        if self.jit_compile and any(map(distributed_apply, optimizers)):
            log.info("jit_compile is switched off for model %s: XLA cannot compile Horovod's operations", self.name)
            self.jit_compile = False
        return original(self, force)

    return make_train_function


def _take_the_old_argument(original: Callable[..., Any]) -> Callable[..., Any]:
    """Take `experimental_run_tf_function`, which programs for Horovod give, as Keras 2 took it: it has no effect.

    It chose between two ways of running a step that TensorFlow 2.0 had.
    """

    def compile(self: Any, *arguments: Any, **options: Any) -> None:
        options.pop("experimental_run_tf_function", None)
        original(self, *arguments, **options)

    return compile
