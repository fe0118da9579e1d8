"""Make a compiled Keras model's step exact over ranks: the update is the gradient of the loss over the global batch.

Runs in rank processes. The model's *instance* is instrumented for the time of a run; its class, its optimizer's class
and its saved configuration stay the user's.

With n_r rows on rank r and the loss a mean over rows, the gradient over the global batch is
sum_r(n_r g_r) / sum_r(n_r). One grouped allreduce sums n_r g_r together with [n_r, n_r loss_r, stop_r]; dividing comes
before the user's own clipping and optimizer. A rank without rows is fed one ghost row: n_r = 0 takes its gradient out,
and its non-trainable and metric variables are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.collective import sum_gradients
from sparkdl.train.metrics import check_metrics, leaf_metrics, summed_states

__all__ = ["StepNumbers", "check_model", "exact_steps"]

# Loss reductions that are a mean over rows (and the elements of a row), so that rows are the right weights.
MEAN_REDUCTIONS = ("sum_over_batch_size", "mean")


class StepNumbers:
    """What a step leaves behind for callbacks: TensorFlow variables, float64, on this rank."""

    def __init__(self) -> None:
        self.loss_sum = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.row_sum = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.wait_s = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.ask_stop = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.stops_asked = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        # Set while a step is traced or run; read by the wrapped optimizer.
        self.rows: tf.Tensor | None = None
        self.loss: tf.Tensor | None = None

    def start_epoch(self) -> None:
        """Forget the sums of the last epoch."""
        for variable in (self.loss_sum, self.row_sum, self.wait_s):
            variable.assign(0.0)


def check_model(model: Any) -> None:
    """Raise ModelError for what cannot be trained exactly, by name."""
    if not isinstance(model, keras.Model):
        raise ModelError(f"build_model must return a compiled keras.Model, not {type(model).__name__}")
    if not model.compiled or model.optimizer is None:
        raise ModelError(f"model {model.name!r} is not compiled with an optimizer; build_model must return it compiled")
    for method in ("train_step", "test_step", "compute_loss"):
        if getattr(type(model), method) is not getattr(keras.Model, method):
            raise ModelError(
                f"model {model.name!r} has its own {method}, which sparkdl cannot make exact over ranks yet; "
                "run it with sparkdl.run and reduce its gradients there"
            )
    for layer in model._flatten_layers():
        if getattr(layer, "synchronized", False):
            raise ModelError(
                f"layer {layer.name!r} asks for synchronized batch statistics, which are per rank here; build it with "
                "synchronized=False"
            )
    if model.steps_per_execution != 1:
        raise ModelError(
            f"steps_per_execution={model.steps_per_execution} would run over the end of an epoch; compile "
            "with steps_per_execution=1"
        )


def build(model: Any, example: tuple[Any, ...]) -> None:
    """Create all variables of model, losses, metrics and optimizer; check what only then is known.

    `example`: (inputs, targets) or (inputs, targets, weights) of a few rows.
    """
    model._symbolic_build(data_batch=example)
    for path_and_loss in model._compile_loss._flat_losses if model._compile_loss is not None else ():
        reduction = getattr(path_and_loss.loss, "reduction", None)
        if getattr(path_and_loss.loss, "ignore_class", None) is not None:
            raise ModelError(
                f"loss {path_and_loss.name!r} has an ignore_class, so it is a mean over valid elements, not over rows; "
                "give those rows the weight 0 instead"
            )
        if reduction not in MEAN_REDUCTIONS:
            raise ModelError(
                f"loss {path_and_loss.name!r} has reduction={reduction!r}; exact over ranks are "
                f"{', '.join(MEAN_REDUCTIONS)}"
            )
    check_metrics(model)


@contextmanager
def exact_steps(model: Any) -> Iterator[StepNumbers]:
    """Within the block the model's `fit` and `evaluate` take elements of `step_dataset` and are exact over ranks."""
    numbers = StepNumbers()
    optimizer = model.optimizer
    replaced: dict[Any, dict[str, Any]] = {
        model: {
            "train_step": _train_step(model, numbers),
            "test_step": _test_step(model, numbers),
            "compute_loss": _compute_loss(model, numbers),
            "get_metrics_result": _metrics_result(model),
            "_get_metrics_result_or_logs": lambda logs: model.get_metrics_result(),
        },
        optimizer: {"apply": _apply(optimizer, numbers)},
    }
    for tracker in model._compile_loss.metrics if model._compile_loss is not None else ():
        replaced[tracker] = {"update_state": _row_weighted(tracker, numbers)}
    jit_compile, model.jit_compile = model.jit_compile, False
    for owner, methods in replaced.items():
        for name, method in methods.items():
            # Past Keras' own __setattr__, which would track what it finds.
            object.__setattr__(owner, name, method)
    try:
        yield numbers
    finally:
        for owner, methods in replaced.items():
            for name in methods:
                object.__delattr__(owner, name)
        model.jit_compile = jit_compile
        # Compiled functions still hold the wrapped steps.
        model.train_function = model.test_function = None


def _unpack(element: tuple[Any, ...]) -> tuple[tuple[Any, ...], tf.Tensor, tf.Tensor]:
    """Keras' (inputs, targets[, weights]), the rows that count, and the seconds waited for the element."""
    ours = isinstance(element, tuple) and len(element) == 2 and isinstance(element[1], tuple) and len(element[1]) == 4
    if not ours:
        raise ModelError("within a run, fit and evaluate of the model take the run's own data; use sparkdl.evaluate")
    wait_s, (inputs, targets, weights, rows) = element
    weighted = not (isinstance(weights, tuple) and weights == ())
    return ((inputs, targets, weights) if weighted else (inputs, targets)), rows, wait_s


def _train_step(model: Any, numbers: StepNumbers) -> Callable[[Any], dict[str, tf.Tensor]]:
    original = model.train_step

    def train_step(element: Any) -> dict[str, tf.Tensor]:
        batch, rows, wait_s = _unpack(element)
        numbers.rows, numbers.loss = rows, None
        with _unchanged_by_ghost(model, rows):
            original(batch)
        numbers.wait_s.assign_add(wait_s)
        return {"loss": tf.cast(numbers.loss_sum / numbers.row_sum, keras.config.floatx())}

    return train_step


def _test_step(model: Any, numbers: StepNumbers) -> Callable[[Any], dict[str, tf.Tensor]]:
    original = model.test_step

    def test_step(element: Any) -> dict[str, tf.Tensor]:
        batch, rows, _ = _unpack(element)
        numbers.rows = rows
        with _unchanged_by_ghost(model, rows):
            original(batch)
        # A rank's own values are no result; callbacks get the reduced ones when the split is done.
        return {"rows": rows}

    return test_step


@contextmanager
def _unchanged_by_ghost(model: Any, rows: tf.Tensor) -> Iterator[None]:
    """Put non-trainable and metric variables back if the step had no rows."""
    state = [*model.non_trainable_variables, *(v for m in leaf_metrics(model.metrics) for v in m.variables)]
    variables = list({id(v): v for v in state}.values())
    before = [tf.identity(v.value) for v in variables]
    yield

    def put_back() -> tf.Tensor:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return tf.constant(0)

    tf.cond(rows > 0, lambda: tf.constant(0), put_back)


def _compute_loss(model: Any, numbers: StepNumbers) -> Callable[..., tf.Tensor]:
    original = model.compute_loss

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        if any(getattr(value, "_keras_mask", None) is not None for value in keras.tree.flatten(y_pred)):
            raise ModelError(
                f"model {model.name!r} gives masked outputs, whose loss is a mean over valid elements, not "
                "rows; sparkdl cannot make that exact over ranks yet"
            )
        numbers.loss = original(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        return numbers.loss

    return compute_loss


def _apply(optimizer: Any, numbers: StepNumbers) -> Callable[..., Any]:
    original = optimizer.apply

    def apply(grads: Any, trainable_variables: Any = None) -> Any:
        if numbers.rows is None or numbers.loss is None:
            raise ModelError("the optimizer was applied outside of a training step")
        grads = list(grads)
        present = [place for place, gradient in enumerate(grads) if gradient is not None]
        rows, counts = tf.cast(numbers.rows, tf.float64), numbers.rows > 0
        weighted = []
        for place in present:
            dense = tf.convert_to_tensor(grads[place])
            # `where` before the product: a ghost row may give NaN, and NaN * 0 is NaN.
            weighted.append(tf.where(counts, dense, tf.zeros_like(dense)) * tf.cast(rows, dense.dtype))
        loss = tf.where(counts, tf.cast(numbers.loss, tf.float64), 0.0)
        summed, total = sum_gradients(weighted, tf.stack([rows, rows * loss, numbers.ask_stop]))
        for place, gradient in zip(present, summed, strict=True):
            grads[place] = gradient / tf.cast(total[0], gradient.dtype)
        numbers.row_sum.assign_add(total[0])
        numbers.loss_sum.assign_add(total[1])
        numbers.stops_asked.assign(total[2])
        return original(grads, trainable_variables)

    return apply


def _row_weighted(tracker: Any, numbers: StepNumbers) -> Callable[..., Any]:
    """The tracker of one output's loss, weighted by rows: Keras weights every batch alike where rows are not static."""
    original = tracker.update_state

    def update_state(values: Any, sample_weight: Any = None) -> Any:
        return original(values, sample_weight=numbers.rows if sample_weight is None else sample_weight)

    return update_state


def _metrics_result(model: Any) -> Callable[[], dict[str, Any]]:
    original = model.get_metrics_result

    def get_metrics_result() -> dict[str, Any]:
        if not tf.executing_eagerly():
            return original()
        with summed_states(leaf_metrics(model.metrics)):
            return original()

    return get_metrics_result
