"""Refuse what a callback changes of the model and the run's steps, traced once, would pass over.

Runs in rank processes.
"""

from __future__ import annotations

from typing import Any

import keras

from sparkdl.errors import ModelError
from sparkdl.train.exact.overrides import has_own_step

__all__ = ["SameModel"]


class SameModel(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises ModelError where callbacks have changed the trainable weights, or put another optimizer in place.

    Keras itself would go on with the old ones without a word until the model is compiled again. A train_step of the
    user's own may set trainable while it is traced, as GANs do: such models are left alone.
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
    """The paths of the trainable weights, by identity: a path may occur twice."""
    return {id(weight): weight.path for weight in model.trainable_weights}
