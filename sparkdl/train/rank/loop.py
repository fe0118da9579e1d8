"""Loop over epochs and steps as Keras' `fit` does, from any step on. Runs in rank processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from sparkdl.train.exact.optimizers import has_stepped
from sparkdl.train.rank.schedule import Schedule
from sparkdl.train.run.checkpoint import Position

__all__ = ["train_epochs"]


def train_epochs(
    model: Any,
    data: Iterator[Any],
    callbacks: Sequence[Any],
    *,
    start: Position,
    schedule: Schedule,
    take_step: Callable[[int, Any], Any],
    evaluate: Callable[[Any], dict[str, Any]] | None,
    resume_epoch: Callable[[], None],
) -> None:
    """Train from a position of the run on, and call the callbacks as `keras.Model.fit` does.

    Args:
        model: compiled, built and within `exact_steps`.
        data: the elements of all steps, from `start` on.
        schedule: the epochs of the run, those before `start` included, and which of the epochs are validated.
        take_step: takes a step of an epoch, given its number and `data`, and returns its logs.
        evaluate: takes the callbacks, returns the logs of the held-out split.
        resume_epoch: restores the sums of the first epoch, if `start` is in the middle of that epoch.
    """
    epochs, steps = schedule.epochs, schedule.steps
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
            step_logs = take_step(step, data)
            called.on_train_batch_end(step, step_logs)
            if model.stop_training:
                break
        logs = dict(model._get_metrics_result_or_logs(step_logs))
        validated = schedule.validates(epoch) or model.stop_training
        if evaluate is not None and validated:
            logs |= {f"val_{name}": value for name, value in evaluate(called).items()}
        with _quiet_about_validation(unless=validated):
            called.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    if isinstance(model.optimizer, keras.optimizers.Optimizer) and has_stepped(model.optimizer):
        # An optimizer that keeps averaged weights (EMA) replaces the last weights by them; also where no step was left
        # to train. Before its first step, as after a compilation in the last epoch's end, its averages are zeros.
        model.optimizer.finalize_variable_values(model.trainable_weights)
    called.on_train_end(logs)


@contextmanager
def _quiet_about_validation(*, unless: bool) -> Iterator[None]:
    """Silence, in an epoch without validation, the warnings of Keras' callbacks that `val_…` is missing.

    EarlyStopping and its like wait for the next epoch that has the value, which is what `validation_every` asks for.
    """
    with warnings.catch_warnings():
        if not unless:
            for text in (r".*conditioned on metric `val_.*not available", r"Can save best model only with val_"):
                warnings.filterwarnings("ignore", message=text)
        yield
