"""Compile forward and backward by XLA, without the collective operations around them.

Runs in rank processes. Horovod's operations cannot be compiled, so Keras' own way, the whole step in one XLA function,
is not ours; where XLA cannot compile a model, it is trained without, and one log line says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

__all__ = ["compiled_by_xla", "example_batch"]

log = logging.getLogger(__name__)


def example_batch(example: tuple[Any, ...], *, rows: int) -> tuple[Any, ...]:
    """A batch of zeros with so many rows, from the symbolic (inputs, targets[, weights])."""
    return keras.tree.map_structure(lambda s: tf.zeros((rows, *s.shape[1:]), s.dtype), example)


def compiled_by_xla(
    function: Callable[..., Any], arguments: tuple[Any, ...], *, what: str
) -> Callable[..., Any] | None:
    """The function, compiled when it is called; None if XLA cannot compile it for these arguments.

    The function is traced, and translated for XLA, but not run.
    """
    compiled = tf.function(function, jit_compile=True, reduce_retracing=True, autograph=False)
    try:
        compiled.experimental_get_compiler_ir(*arguments)(stage="hlo")
    except Exception as error:  # what XLA cannot do comes as many types
        reason = " ".join(str(error).split())[:200]
        log.warning("jit_compile is switched off for %s: XLA cannot compile it (%s)", what, reason)
        return None
    return compiled
