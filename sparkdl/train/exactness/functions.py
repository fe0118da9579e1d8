"""Take the loss and metric functions out of a compiled model, to be tried. Runs in rank processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.losses.losses import LossFunctionWrapper

from sparkdl.train.exact.findings import Inexact
from sparkdl.train.exact.overrides import has_own_step
from sparkdl.train.exact.patch import patched
from sparkdl.train.exact.state.metrics import leaf_metrics

__all__ = [
    "Key",
    "Pair",
    "TriedFunction",
    "captured",
    "inexact_losses",
    "tried_functions",
    "values_of",
    "weighted_keys",
]

# Functions of Keras that give a value for each row, whatever the other rows are; tests prove the list. Dice and Tversky
# are such functions with some axes and not with others, circle compares rows with each other.
ROW_LOSSES = tuple(
    getattr(keras.losses, name)
    for name in (
        "binary_crossentropy",
        "binary_focal_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "categorical_hinge",
        "cosine_similarity",
        "ctc",
        "hinge",
        "huber",
        "kl_divergence",
        "log_cosh",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_error",
        "mean_squared_logarithmic_error",
        "poisson",
        "sparse_categorical_crossentropy",
        "squared_hinge",
    )
)
SUMS = ("sum", "none", None)
ROW_MEANS = ("sum_over_batch_size", "mean")
ROW_VALUES = "return one value for each row"
# A loss or metric, by its kind and its index among those of the model.
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TriedFunction:
    """Describe a function of labels and predictions.

    Attributes:
        what: kind and name, as in messages: "loss 'dice'".
        call: takes tensors ``(rows, *shape)``, returns values of any shape.
        summed: whether the model takes the sum of the values, and not their mean.
        known: whether the function is known to give a value for each row.
        way_out: how to make the function exact, where that is known.
        of_labels_as_they_are: whether whole numbers stay whole; losses get labels as floats.
        weighs: whether the weights of rows are a part of what is tried.
    """

    what: str
    call: Callable[[Any, Any], Any]
    summed: bool = False
    known: bool = False
    way_out: str = ROW_VALUES
    of_labels_as_they_are: bool = False
    weighs: bool = False

    def arguments(self, y_true: Any, y_pred: Any, dtype: str | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Convert labels and predictions as Keras does for the function; predictions to `dtype` (None: Keras' own)."""
        if dtype is None and not self.of_labels_as_they_are:
            dtype = keras.config.floatx()
        y_pred = tf.convert_to_tensor(y_pred) if dtype is None else tf.cast(y_pred, dtype)
        y_true = tf.convert_to_tensor(y_true)
        as_they_are = self.of_labels_as_they_are and not y_true.dtype.is_floating
        return y_true if as_they_are else tf.cast(y_true, y_pred.dtype), y_pred


@dataclass(frozen=True, slots=True)
class Pair:
    """Hold the labels and predictions that a function got in one call of the model's loss or metrics."""

    y_true: Any
    y_pred: Any
    masked: bool


def inexact_losses(model: Any) -> list[Inexact]:
    """List the compiled losses whose denominator cannot be known, because the model has its own steps or loss."""
    found = []
    for what, entry in _named_losses(model) if has_own_step(model) else ():
        reduction = getattr(entry.loss, "reduction", "mean")
        if reduction not in ROW_MEANS or getattr(entry.loss, "ignore_class", None) is not None:
            has = f"reduction={reduction!r}" if reduction not in ROW_MEANS else "an ignore_class"
            reason = f"has {has}, and the model has its own train_step, test_step or compute_loss"
            found.append(Inexact(what, reason, "losses in those must be means over rows"))
    return found


def _named_losses(model: Any) -> list[tuple[str, Any]]:
    """List the compiled losses with kind and name as in messages: "loss 'dice'", "loss 'mse' of output 'size'"."""
    entries = flat_losses(model)
    named = []
    for entry in entries:
        name = getattr(entry.loss, "name", None) or getattr(entry.loss, "__name__", type(entry.loss).__name__)
        named.append((f"loss {name!r}" + (f" of output {entry.name!r}" if len(entries) > 1 else ""), entry))
    return named


def is_row_loss(function: Any) -> bool:
    """Tell whether this is a function of Keras that gives a value for each row."""
    return any(function is known for known in ROW_LOSSES)


def tried_functions(model: Any, *, weighted: bool = False) -> dict[Key, TriedFunction]:
    """List the functions of a built model: compiled losses, and metrics of functions.

    `weighted`: whether rows have weights, which a loss that reduces its values in its own way is tried with.
    """
    found: dict[Key, TriedFunction] = {}
    for index, (what, entry) in enumerate(_named_losses(model)):
        found["loss", index] = _of_loss(what, entry.loss, weighted)
    for index, metric in enumerate(leaf_metrics(model.metrics)):
        function = getattr(metric, "_fn", None)
        if function is not None and isinstance(metric, keras.metrics.MeanMetricWrapper):
            found["metric", index] = _of_metric(metric, function)
    return found


def flat_losses(model: Any) -> Sequence[Any]:
    """List the compiled losses, as the user gave them, in Keras' entries (path, loss, loss_weights, name)."""
    compiled = model._compile_loss
    entries = compiled._flat_losses if compiled is not None else None
    return [entry._replace(loss=getattr(entry.loss, "user_loss", entry.loss)) for entry in entries or ()]


def _of_loss(what: str, loss: Any, weighted: bool) -> TriedFunction:
    summed = getattr(loss, "reduction", "mean") in SUMS
    if not (isinstance(loss, keras.losses.Loss) and type(loss).__call__ is keras.losses.Loss.__call__):

        def call(y_true: Any, y_pred: Any) -> Any:
            return loss(y_true, y_pred, sample_weight=_drawn_weights(y_pred)) if weighted else loss(y_true, y_pred)

        return TriedFunction(what, call, summed, weighs=weighted)
    function = getattr(loss, "fn", None)
    wrapped = isinstance(loss, LossFunctionWrapper) and type(loss).call is LossFunctionWrapper.call
    axes = isinstance(loss, (keras.losses.Dice, keras.losses.Tversky))
    way_out = f"use {type(loss).__name__}(axis=(1, 2, …)): all axes but the rows" if axes else ROW_VALUES
    # `call` of the class: a run may have set one on the instance that notes masks.
    known = wrapped and is_row_loss(function) and _reduces_last(getattr(loss, "_fn_kwargs", {}))
    return TriedFunction(what, type(loss).call.__get__(loss), summed, known, way_out)


def _reduces_last(kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a function of Keras reduces the last axis: another axis may be that of the rows."""
    return kwargs.get("axis", -1) == -1


def _drawn_weights(y_pred: Any) -> Any:
    """Make weights, 0.5 to 1.5, ``(rows,)``, of the predictions' dtype; a row has the same among any other rows."""
    flat = tf.reshape(y_pred, (tf.shape(y_pred)[0], -1))
    # Each element has another share: probabilities have the sum 1 in all rows.
    shares = tf.cast(tf.range(1, tf.shape(flat)[1] + 1), flat.dtype)
    return 1 + 0.5 * tf.sin(100 * tf.reduce_sum(flat * shares, axis=1))


def _of_metric(metric: Any, function: Any) -> TriedFunction:
    kwargs: Mapping[str, Any] = getattr(metric, "_fn_kwargs", {})
    module = str(getattr(function, "__module__", ""))
    known = (is_row_loss(function) or module.startswith("keras.src.metrics")) and _reduces_last(kwargs)
    return TriedFunction(
        f"metric {metric.name!r}", lambda y, p: function(y, p, **kwargs), known=known, of_labels_as_they_are=True
    )


def weighted_keys(model: Any) -> set[Key]:
    """List the losses and metrics of a built model that get the weights of rows, where rows have weights."""
    compiled = model._compile_metrics
    lists = (compiled._flat_weighted_metrics or ()) if compiled is not None and compiled.built else ()
    weighed = {id(metric) for entry in lists if entry is not None for metric in entry.metrics}
    metrics = {("metric", index) for index, m in enumerate(leaf_metrics(model.metrics)) if id(m) in weighed}
    return metrics | {("loss", index) for index in range(len(flat_losses(model)))}


def values_of(function: TriedFunction, values: np.ndarray, rows: int) -> np.ndarray:
    """Return a function's values; of a summed function without a value for each row, the sum divided by the rows."""
    if not function.summed or (values.ndim and len(values) == rows):
        return values
    return np.sum(values, dtype=np.result_type(values.dtype, np.float32)) / rows


@contextmanager
def captured(model: Any) -> Iterator[dict[Key, Pair]]:
    """Capture what the model's losses and metrics get, within the block; losses give 0, metrics are not updated."""
    pairs: dict[Key, Pair] = {}

    def note(key: Key, y_true: Any, y_pred: Any) -> None:
        masked = getattr(y_pred, "_keras_mask", None) is not None
        pairs.setdefault(key, Pair(y_true, y_pred, masked))

    def of_loss(index: int) -> Callable[..., Any]:
        def call(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            note(("loss", index), y_true, y_pred)
            return tf.zeros((), keras.config.floatx())

        return call

    def of_metric(index: int) -> Callable[..., None]:
        def update_state(*args: Any, **kwargs: Any) -> None:
            given = [*args, *(kwargs[name] for name in ("y_true", "y_pred") if name in kwargs)]
            if len(given) > 1:
                note(("metric", index), *given[:2])

        return update_state

    with ExitStack() as stack:
        entries = [entry._replace(loss=of_loss(index)) for index, entry in enumerate(flat_losses(model))]
        if entries:
            stack.enter_context(patched(model._compile_loss, {"_flat_losses": entries}))
        for index, metric in enumerate(leaf_metrics(model.metrics)):
            stack.enter_context(patched(metric, {"update_state": of_metric(index)}))
        yield pairs
