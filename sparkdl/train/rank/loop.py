"""Loop over epochs and steps as Keras' `fit` does, from any step on. Runs in rank processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from sparkdl.train.run.checkpoint import Position

__all__ = ["train_epochs"]


def train_epochs(
    model: Any,
    data: Iterator[Any],
    callbacks: Sequence[Any],
    *,
    start: Position,
    epochs: int,
    steps: int,
    evaluate: Callable[[Any], dict[str, Any]] | None,
    resume_epoch: Callable[[], None],
) -> None:
    """Train from a position of the run on, and call the callbacks as `keras.Model.fit` does.

    Args:
        model: compiled, built and within `exact_steps`.
        data: the elements of all steps, from `start` on.
        epochs: the number of epochs after which the run ends, those before `start` included.
        steps: the steps of one epoch.
        evaluate: takes the callbacks, returns the logs of the held-out split.
        resume_epoch: restores the sums of the first epoch, if `start` is in the middle of that epoch.
    """
    called = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, add_progbar=False, verbose=0, epochs=epochs, steps=steps, model=model
    )
    model.stop_training = False
    model.make_train_function()
    called.on_train_begin()
    logs: Any = None
    for epoch in range(start.epoch, epochs):
        first = start.step if epoch == start.epoch else 0
        model.reset_metrics()
        called.on_epoch_begin(epoch)
        if first:
            resume_epoch()
        step_logs: Any = {}
        for step in range(first, steps):
            called.on_train_batch_begin(step)
            step_logs = model.train_function(data)
            called.on_train_batch_end(step, step_logs)
            if model.stop_training:
                break
        logs = dict(model._get_metrics_result_or_logs(step_logs))
        if evaluate is not None:
            logs |= {f"val_{name}": value for name, value in evaluate(called).items()}
        called.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    if isinstance(model.optimizer, keras.optimizers.Optimizer):
        # An optimizer that keeps averaged weights (EMA) replaces the last weights by them; also where no step was left
        # to train.
        model.optimizer.finalize_variable_values(model.trainable_weights)
    called.on_train_end(logs)
