"""Save and restore the state of a run: weights, optimizers, sums of the epoch, callbacks.

Runs in rank processes. Rank 0 saves, every rank restores: state that is the same on all ranks on all of them, sums over
rows on rank 0 alone. Random draws and the order of rows are functions of seed, step and rank and need no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np

from sparkdl.errors import CheckpointError
from sparkdl.train.exact.counters import EpochSums, StepCounters
from sparkdl.train.exact.optimizers import optimizers_of
from sparkdl.train.exact.state.metrics import metric_variables

__all__ = ["callback_states", "epoch_arrays", "restore_callbacks", "restore_epoch", "restore_model", "run_arrays"]

# The attributes in which Keras' callbacks keep state from epoch to epoch; all others are configuration.
_REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}

# Sums of the epoch in progress that are the same on all ranks; sums of a single rank begin anew.
_SAME_ON_ALL_RANKS = ("global_rows", "norm", "norms")


def _variables(model: Any) -> dict[str, Any]:
    """Return the variables of a model and its optimizers, under names that are the same in every process."""
    groups = {"model": model.variables}
    groups |= {f"optimizer{n}": optimizer.variables for n, optimizer in enumerate(optimizers_of(model))}
    return {f"{group}/{n}": variable for group, variables in groups.items() for n, variable in enumerate(variables)}


def _epoch_variables(model: Any) -> dict[str, Any]:
    """Return the variables in which metrics keep the sums of the epoch in progress."""
    return {f"metric/{n}": variable for n, variable in enumerate(metric_variables(model))}


def _array(variable: Any) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    # .npz files cannot hold bfloat16.
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def _plain(array: Any) -> np.ndarray:
    """Cast bfloat16 to float32, which .npz files can hold; Keras casts it back when it is assigned to a variable."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _assign(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    for name, variable in variables.items():
        try:
            value = arrays[name]
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks variable {variable.path!r} of the model") from error
        if tuple(value.shape) != tuple(variable.shape):
            raise CheckpointError(
                f"variable {variable.path!r} has shape {tuple(variable.shape)}, in the checkpoint {tuple(value.shape)}"
            )
        if keras.backend.standardize_dtype(variable.dtype) == "bfloat16":
            value = value.view(ml_dtypes.bfloat16)
        variable.assign(value)


def run_arrays(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the values of weights and optimizers, one array at a time, with their names."""
    for name, variable in _variables(model).items():
        yield name, _array(variable)


def restore_model(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Give weights and optimizers the values of `run_arrays`. Raises CheckpointError for another model's."""
    _assign(_variables(model), arrays)


def epoch_arrays(model: Any, numbers: StepCounters) -> list[tuple[str, np.ndarray]]:
    """Return the sums of the epoch in progress; the metrics' variables must hold the sums over all ranks."""
    arrays = [(name, _array(variable)) for name, variable in _epoch_variables(model).items()]
    sums = [(f"numbers/{name}", np.array(getattr(numbers.sums(), name))) for name in _SAME_ON_ALL_RANKS]
    return [*arrays, *sums, ("numbers/train_parts", numbers.train_parts.numpy())]


def restore_epoch(model: Any, numbers: StepCounters, arrays: Mapping[str, np.ndarray], *, rank: int) -> None:
    """Restore the sums of an epoch: sums that ranks add up on rank 0 alone, sums that every rank knows on all ranks."""
    if rank == 0:
        _assign(_epoch_variables(model), arrays)
    numbers.start_epoch(EpochSums(**{name: arrays[f"numbers/{name}"] for name in _SAME_ON_ALL_RANKS}))
    numbers.train_parts.assign(arrays["numbers/train_parts"])


def callback_states(callbacks: Sequence[Any]) -> tuple[dict[str, Any], list[tuple[str, np.ndarray]]]:
    """Return the state of callbacks: JSON for each callback that has state, and arrays.

    The state of Keras' callbacks is known; a user's callback takes part by `get_state()`, which returns JSON, and
    `set_state(state)`.
    """
    states: dict[str, Any] = {}
    arrays: list[tuple[str, np.ndarray]] = []
    for key, callback in _keyed(callbacks).items():
        if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
            states[key] = callback.get_state()
        elif names := _remembered(callback):
            states[key] = {"criterion": _criterion(callback)}
            for name in names:
                value = getattr(callback, name, None)
                if isinstance(value, list):
                    arrays += [(f"callback/{key}/{name}/{n}", _plain(array)) for n, array in enumerate(value)]
                    value = {"arrays": len(value)}
                states[key][name] = value if value is None or isinstance(value, dict) else float(value)
    return states, arrays


def restore_callbacks(callbacks: Sequence[Any], states: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Restore the state of callbacks; callbacks that are new, or monitored another metric, start anew."""
    for key, callback in _keyed(callbacks).items():
        if key not in states:
            continue
        if hasattr(callback, "set_state"):
            callback.set_state(states[key])
            continue
        state = {**states[key]}
        # The best value of another metric cannot be compared with; older runs did not record the metric.
        if state.pop("criterion", _criterion(callback)) != _criterion(callback):
            continue
        for name, value in state.items():
            if isinstance(value, dict):
                value = [arrays[f"callback/{key}/{name}/{n}"] for n in range(value["arrays"])]
            elif value is not None and isinstance(getattr(callback, name, None), int):
                value = int(value)
            setattr(callback, name, value)


def _criterion(callback: Any) -> list[Any]:
    """Return the metric that a callback of Keras monitors, and in which direction."""
    return [getattr(callback, "monitor", None), getattr(callback, "mode", None)]


def _keyed(callbacks: Sequence[Any]) -> dict[str, Any]:
    """Key callbacks by class and order within the class, because others may come and go between runs."""
    names = [type(callback).__name__ for callback in callbacks]
    return {f"{name}-{names[:index].count(name)}": callbacks[index] for index, name in enumerate(names)}


def _remembered(callback: Any) -> tuple[str, ...]:
    return next((names for kind, names in _REMEMBERED.items() if isinstance(callback, kind)), ())
