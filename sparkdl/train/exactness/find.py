"""Find the parts of a model whose value over all rows does not follow from values over parts of the rows.

Runs in rank processes: on rank 0 before training and evaluation, on rows of the whole split, so that the verdict is the
same on any number of ranks. Exact steps need a loss that is a mean over rows, metrics whose states are sums over rows,
layers that look at one row at a time, and layer state whose changes can be summed or averaged. None of this can be read
off a function or a layer, so each function and layer is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

from sparkdl.train.exact.findings import Findings, Inexact
from sparkdl.train.exact.overrides import has_own_step
from sparkdl.train.exact.state.batch_values import judge_values, metrics_of_layers
from sparkdl.train.exact.state.metrics import inexact_metrics
from sparkdl.train.exact.state.moving_state import LayerState, layer_states
from sparkdl.train.exactness.custom_steps import try_own_steps
from sparkdl.train.exactness.functions import (
    Key,
    Pair,
    TriedFunction,
    captured,
    inexact_losses,
    tried_functions,
    values_of,
    weighted_keys,
)
from sparkdl.train.exactness.probe import Probe, part_of
from sparkdl.train.exactness.row_form import RowForm, find_form
from sparkdl.train.exactness.row_independence import added_losses, mixing, model_tolerance, state_reductions
from sparkdl.train.exactness.steady import steady
from sparkdl.train.exactness.trials import make_trials

__all__ = ["find_inexact"]

# Layers of Keras that run the user's code.
_OF_CODE = (keras.layers.Lambda, keras.layers.TFSMLayer)
# The rows that the model is called on; functions of labels and predictions are tried on all given rows.
ROWS_OF_MODEL = 16


def find_inexact(
    model: Any,
    batch: tuple[Any, ...],
    *,
    class_weights: bool = False,
    training: bool = True,
    rows_at_once: int = ROWS_OF_MODEL,
    rows_of_step: int | None = None,
) -> Findings:
    """Find the parts of a built model that are not exact over ranks.

    Args:
        batch: (inputs, targets) or (inputs, targets, weights) of at least one row of the dataset.
        class_weights: whether training multiplies the loss of rows by weights of their classes.
        training: whether the model is to be trained, not only evaluated.
        rows_at_once: how many of the rows the model is called on; its functions are tried on all.
        rows_of_step: how many of the rows the model's own steps are tried on; None: on all.

    Raises tf.errors.ResourceExhaustedError where the rows do not fit into the device's memory.
    """
    x, y = (keras.tree.map_structure(keras.ops.convert_to_numpy, part) for part in batch[:2])
    found = [*inexact_losses(model)]
    metrics, averaged = inexact_metrics(model)
    found += metrics
    states = layer_states(model)
    reductions = [state.reduction or "mean" for state in states]
    single: list[int] = []
    summed: set[str] = set()
    # A layer may change its state whenever it is called, in these trials, too.
    before = [keras.ops.convert_to_numpy(state.variable) for state in states]
    try:
        functions, single = _try_functions(model, x, y, rows_at_once, weighted=class_weights or len(batch) > 2)
        # Rows are repeated where there are fewer.
        indexes = np.arange(rows_at_once) % len(keras.tree.flatten(x)[0])
        few = part_of(x, indexes), part_of(y, indexes)
        unlike, reductions, summed = _try_model(model, *few, states, reductions, training=training)
        found += functions + unlike
    except tf.errors.ResourceExhaustedError:
        raise
    except Exception as error:
        # Keras has called the model on symbolic inputs by now: a failure here comes from the number of rows.
        text = " ".join(f"{type(error).__name__}: {error}".split())
        reason = f"fails for some of {len(keras.tree.flatten(x)[0])} rows: {text:.300}"
        found.append(Inexact(f"model {model.name!r}", reason, "let it take any number of rows"))
    of_steps, summed_in_steps = try_own_steps(model, part_of(batch, slice(rows_of_step)), training=training)
    found += of_steps
    for state, value in zip(states, before, strict=True):
        state.variable.assign(value)
    model.reset_metrics()
    by_name = {one.what: one for one in reversed(found)}
    return Findings(
        inexact=tuple(by_name[one] for one in dict.fromkeys(one.what for one in found)),
        states=tuple(reductions),
        single_values=tuple(single),
        averaged_metrics=tuple(averaged),
        summed_metrics=tuple(sorted(summed | summed_in_steps)),
    )


def _try_model(
    model: Any, x: Any, y: Any, states: Sequence[LayerState], reductions: list[str], *, training: bool
) -> tuple[list[Inexact], list[str], set[str]]:
    """Find what is not exact in layers, added losses and states; return also states' reductions and summed metrics."""
    found: list[Inexact] = []
    summed: set[str] = set()
    for mode in _modes(model, training=training):
        before = [keras.ops.convert_to_numpy(state.variable) for state in states]
        probe = Probe(model, training=mode, states=[state.variable for state in states])
        # Without losses the model's train_step alone knows its loss: compute_loss is not tried.
        cut = probe(x, () if model._compile_loss is None and not model.losses else y)
        of_layers, names = judge_values(
            metrics_of_layers(model),
            cut.whole.noted,
            [part.noted for part in cut.parts],
            [part.rows for part in cut.parts],
            tolerance=model_tolerance(model),
        )
        found += mixing(model, cut) + added_losses(model, cut) + of_layers
        summed |= names
        if mode:
            unknown, possible = state_reductions(states, before, cut)
            found += unknown
            reductions = [names[0] if names else "mean" for names in possible]
    return found, reductions, summed


def _modes(model: Any, *, training: bool) -> tuple[bool, ...]:
    """List the values of `training` to call the model with, the last one as the model will be used.

    Keras' layers compute for a row in evaluation what they compute in training, where draws give their middle.
    """
    if not training:
        return (False,)
    layers = [model, *model._flatten_layers()]
    own = any(not type(layer).__module__.startswith("keras.") or isinstance(layer, _OF_CODE) for layer in layers)
    return (False, True) if own else (True,)


def _try_functions(model: Any, x: Any, y: Any, rows_at_once: int, *, weighted: bool) -> tuple[list[Inexact], list[int]]:
    """Find what is not exact in losses and metrics, and the indexes of metrics that give one value for all rows."""
    functions = tried_functions(model, weighted=weighted)
    pairs = _pairs(model, x, y, rows_at_once)
    weighed = weighted_keys(model) if weighted else set()
    found: list[Inexact] = []
    single: list[int] = []
    for key, function in functions.items():
        pair, is_loss = pairs.get(key), key[0] == "loss"
        if pair is None:
            continue
        if is_loss and pair.masked and has_own_step(model):
            reason = "is a mean over the valid elements of masked outputs, and the model has its own steps"
            found.append(Inexact(function.what, reason, "losses in those must be means over rows"))
        # Of predictions of shape (rows,) Keras' functions reduce the rows.
        if function.known and len(pair.y_pred.shape) > 1:
            continue
        with steady(model):  # a loss may draw
            form = _form(function, pair)
        single += [key[1]] if form.kind != "rows" and not is_loss else []
        divides = form.kind == "rows" or function.summed or function.weighs
        if form.kind == "batch":
            found.append(Inexact(function.what, f"is not a mean over rows: {form.reason}", function.way_out))
        elif not divides and (pair.masked or key in weighed):
            by = "the mask of the outputs" if pair.masked else "weights of rows"
            reason = f"is not a mean over rows: it gives one value for all rows, and {by} cannot divide it"
            found.append(Inexact(function.what, reason, function.way_out))
    return found, single


def _pairs(model: Any, x: Any, y: Any, rows_at_once: int) -> dict[Key, Pair]:
    """Capture what each loss and metric gets for these rows; predictions of a few rows are repeated for all rows."""
    with steady(model), captured(model) as pairs:
        few, inputs, targets = keras.tree.map_structure(tf.convert_to_tensor, [part_of(x, slice(rows_at_once)), x, y])
        y_pred = model(few, training=False) if model._call_has_training_arg else model(few)
        y_pred = _repeated(y_pred, len(keras.tree.flatten(few)[0]), len(keras.tree.flatten(x)[0]))
        if model._compile_loss is not None:
            model._compile_loss(targets, y_pred, None)
        model.compute_metrics(inputs, targets, y_pred, sample_weight=None)
    return pairs


def _repeated(y_pred: Any, few: int, rows: int) -> Any:
    """Repeat the predictions and masks of `few` rows up to `rows` rows."""
    indexes = np.arange(rows) % few

    def repeat(values: Any) -> Any:
        if rows == few or tuple(values.shape[:1]) != (few,):
            return values
        repeated, mask = tf.gather(values, indexes), get_keras_mask(values)
        if mask is not None:
            set_keras_mask(repeated, tf.gather(mask, indexes))
        return repeated

    return keras.tree.map_structure(repeat, y_pred)


def _form(function: TriedFunction, pair: Pair) -> RowForm:
    """Find the form of a function, in float64, or in Keras' float dtype where the function fails in float64."""
    y_true, y_pred = (keras.ops.convert_to_numpy(values) for values in (pair.y_true, pair.y_pred))
    whole_labels = np.issubdtype(y_true.dtype, np.integer) and function.of_labels_as_they_are

    def values(dtype: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def call(y_t: np.ndarray, y_p: np.ndarray) -> np.ndarray:
            labels = tf.constant(y_t.astype(y_true.dtype if whole_labels else dtype))
            given = function.call(*function.arguments(labels, tf.constant(y_p, dtype), dtype))
            return values_of(function, np.asarray(keras.ops.convert_to_numpy(given)), len(y_p))

        return call

    try:
        return find_form(values("float64"), make_trials(y_true, y_pred))
    except tf.errors.ResourceExhaustedError:
        raise
    except Exception:  # the function mixes its arguments with constants of another dtype
        try:
            return find_form(values(keras.config.floatx()), make_trials(y_true, y_pred))
        except Exception as error:
            text = " ".join(str(error).split())
            return RowForm("batch", f"it fails for {len(y_true)} rows: {type(error).__name__}: {text:.200}")
