"""Refuse changes by callbacks to the model that the run's steps, which are traced once, would not follow.

Runs in rank processes.
"""

from __future__ import annotations

from typing import Any

import keras

from sparkdl.errors import ModelError
from sparkdl.train.exact.overrides import has_own_step

__all__ = ["SameModel"]


class SameModel(keras.callbacks.Callback):  # type: ignore[misc]
    """Raise ModelError if callbacks have changed which weights are trainable, or set another optimizer.

    Keras itself would silently use the old weights and optimizer until the model is compiled again. A user's train_step
    may set `trainable` while it is traced, as GANs do: such models are not checked.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trainable: dict[int, str] = {}
        self._optimizer: Any = None

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._trainable = _trainable(model)
        self._optimizer = model.optimizer

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._check()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._check()

    def _check(self) -> None:
        if has_own_step(self.model):
            return
        now = _trainable(self.model)
        changed = [path for key, path in (self._trainable | now).items() if (key in self._trainable) != (key in now)]
        if changed:
            others = f" and {len(changed) - 1} more" if changed[1:] else ""
            raise ModelError(
                f"a callback has changed whether weight {changed[0]!r}{others} is trainable, which the steps of a run "
                "do not follow; set trainable in build_model, or train in two runs: the second one's build_model sets "
                "it, with TrainConfig(initial_model=first.model_dir)"
            )
        if self.model.optimizer is not self._optimizer:
            raise ModelError(
                "a callback has given the model another optimizer, which the steps of a run do not follow; set values "
                "of the one that build_model compiled, or train in two runs, with TrainConfig(initial_model=…)"
            )


def _trainable(model: Any) -> dict[int, str]:
    """Return the paths of the trainable weights by the id of the weight, because a path may occur twice."""
    return {id(weight): weight.path for weight in model.trainable_weights}
