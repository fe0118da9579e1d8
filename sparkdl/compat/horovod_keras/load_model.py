"""Load a Keras model to train it further on all ranks. Runs in rank processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np

from sparkdl.compat.horovod_keras.optimizer import DistributedOptimizer
from sparkdl.errors import ConfigError, ModelError, shown

__all__ = ["load_model"]


def load_model(
    filepath: Any,
    custom_optimizers: Sequence[type] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    compression: Any = hvd.Compression.none,
    legacy_opts: bool = False,
) -> Any:
    """Load a model, and make its optimizer, with its saved state, average gradients over ranks.

    Args:
        filepath: a `.keras` or `.h5` file that this rank sees.
        custom_optimizers: optimizer classes of the user's that the model may have been trained with.
        custom_objects: classes and functions of the user's by name, as in `keras.models.load_model`.
        compression: as in `DistributedOptimizer`.
        legacy_opts: must be False: Keras 3 has no legacy optimizers.

    Raises ConfigError for a wrong argument, ModelError for an optimizer's state of another version of Keras, else what
    `keras.models.load_model` raises. A model that was saved without
    its optimizer is returned without one: compile it with a `DistributedOptimizer`.
    """
    if legacy_opts:
        raise ConfigError("legacy_opts=True must be False: Keras 3 has no legacy optimizers")
    own = list(custom_optimizers or ())
    for one in own:
        if not (isinstance(one, type) and issubclass(one, keras.optimizers.Optimizer)):
            raise ConfigError(f"custom_optimizers={shown(own)} must be optimizer classes of Keras 3")
    known = {one.__name__: one for one in own}
    # The names under which old versions of Horovod saved an optimizer.
    old = {f"Distributed{one.__name__}": one for one in (*_keras_optimizers(), *own)}
    model = keras.models.load_model(filepath, custom_objects={**old, **known, **(custom_objects or {})})
    if getattr(model, "optimizer", None) is not None:
        _complete_optimizer(model, filepath)
        DistributedOptimizer(model.optimizer, compression=compression)
    return model


def _complete_optimizer(model: Any, filepath: Any) -> None:
    """Give the optimizer of a model from an HDF5 file its saved state, which Keras 3 builds for no weight of a layer.

    Raises ModelError for the state of another version of Keras, which has other variables.
    """
    optimizer, weights = model.optimizer, model.trainable_variables
    if not optimizer.built or len(optimizer._trainable_variables) == len(weights):
        return
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import load_optimizer_weights_from_hdf5_group

    with h5py.File(filepath, "r") as file:
        values = [np.asarray(value) for value in load_optimizer_weights_from_hdf5_group(file)]
    complete = type(optimizer).from_config(optimizer.get_config())
    complete.build(weights)
    if [tuple(variable.shape) for variable in complete.variables] != [value.shape for value in values]:
        raise ModelError(
            f"filepath={shown(str(filepath))} holds the optimizer's state in the form of another version of Keras; use "
            "keras.models.load_model(filepath, compile=False), and compile the model with a new DistributedOptimizer"
        )
    for variable, value in zip(complete.variables, values, strict=True):
        variable.assign(value)
    model.optimizer = complete


def _keras_optimizers() -> list[type]:
    members = vars(keras.optimizers).values()
    return [one for one in members if isinstance(one, type) and issubclass(one, keras.optimizers.Optimizer)]
