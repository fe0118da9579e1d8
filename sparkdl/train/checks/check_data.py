"""Compare a model's inputs and outputs with the dataset's features and labels, before Keras fails less clearly.

Runs in rank processes. A model that overrides train_step, test_step or compute_loss may use the data in any way, and is
not checked here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from keras.src import backend

from sparkdl.data.features import Encoder
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.errors import ModelError, shown
from sparkdl.model.outputs import flat_outputs, keras_loss, last_activation, loss_of, own_output_names

__all__ = ["check_inputs", "check_targets"]

log = logging.getLogger(__name__)

# Losses that take one probability, logit or margin for a row, one value for each class, and the code of a class.
_ONE_UNIT = ("binary_crossentropy", "binary_focal_crossentropy", "hinge", "squared_hinge")
_ONE_HOT = ("categorical_crossentropy", "categorical_focal_crossentropy", "categorical_hinge", "kl_divergence")
_CODES = ("sparse_categorical_crossentropy",)
# Losses that compare value by value: if shapes differ, one side would be broadcast to the other.
_EACH_VALUE = (
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "huber",
    "log_cosh",
    "poisson",
)


def check_inputs(model: Any, inputs: Any) -> None:
    """Raise ModelError if a functional or Sequential model does not take the features.

    `inputs`: symbolic, by name, or a bare one for a single feature.
    """
    functional = getattr(model, "_functional", None) or model
    declared = getattr(functional, "_inputs_struct", None)
    given = inputs if isinstance(inputs, Mapping) else {}
    if declared is None or isinstance(declared, Mapping):
        return
    tensors = list(declared) if isinstance(declared, (list, tuple)) else [declared]
    if not all(isinstance(tensor, backend.KerasTensor) for tensor in tensors):
        return
    unknown = [tensor for tensor in tensors if tensor.name not in given]
    if given and unknown and len(tensors) == 1:
        names = ", ".join(repr(name) for name in given)
        raise ModelError(
            f"model {model.name!r} has one input, of shape {unknown[0].shape[1:]}, and the dataset the {len(given)} "
            f"features {_shortened(names)}; give the model an Input for each, named after it, and join them "
            "(keras.layers.Concatenate), or prepare one array column of them (F.array(…))"
        )
    if given and unknown:
        raise ModelError(
            f"model {model.name!r} takes inputs by name; not features of the dataset: "
            f"{shown([tensor.name for tensor in unknown])}, which are {shown(sorted(given))}. Name each Input after "
            "its feature"
        )
    if not given and len(tensors) > 1:
        raise ModelError(
            f"model {model.name!r} has {len(tensors)} inputs, {shown([tensor.name for tensor in tensors])}, and the "
            "dataset one feature; give the model one Input"
        )
    for tensor in tensors:
        value = given[tensor.name] if given else inputs
        if not _fits(tuple(value.shape[1:]), tuple(tensor.shape[1:])):
            name = f"feature {tensor.name!r}" if given else "the feature"
            raise ModelError(
                f"{name} has rows of shape {tuple(value.shape[1:])}, and the input {tensor.name!r} of model "
                f"{model.name!r} takes {tuple(tensor.shape[1:])}; make them the same"
            )


def check_targets(model: Any, example: tuple[Any, ...], label_encoders: Sequence[Encoder]) -> None:
    """Raise ModelError if outputs and losses cannot learn the labels; warn of classes that scoring cannot return.

    `example`: symbolic (inputs, targets) or (inputs, targets, weights); `label_encoders`: those of the targets, if the
    targets are labels.
    """
    result = _result(model, example[0])
    if result is None or model._compile_loss is None:
        return
    targets, flat = example[1], flat_outputs(result)
    if isinstance(targets, Mapping) and len(flat) == 1 and not isinstance(result, Mapping):
        names = ", ".join(repr(name) for name in targets)
        raise ModelError(
            f"model {model.name!r} has one output, of shape {tuple(flat[0].shape[1:])}, and the dataset the "
            f"{len(targets)} labels {_shortened(names)}; give the model an output for each, keras.Model(inputs, "
            f"{{{next(iter(targets))!r}: …}}), or prepare one label that is an array of them (F.array(…))"
        )
    encoders = {encoder.name: encoder for encoder in label_encoders}
    for index, (name, tensor) in enumerate(zip(own_output_names(model, result), flat, strict=True)):
        target, encoder = targets, label_encoders[0] if len(label_encoders) == 1 else None
        if isinstance(targets, Mapping):
            target, encoder = targets.get(name), encoders.get(name)
        elif len(flat) > 1:
            return
        if target is None or None in tensor.shape[1:] or None in target.shape[1:]:
            continue
        loss = keras_loss(loss_of(model, name, index, len(flat)))
        loss = _chosen(loss, tuple(tensor.shape[1:]))
        label = f"label {encoder.name!r}" if encoder is not None else "the target"
        output = f"output {name!r} of model {model.name!r}"
        classes = len(encoder.vocabulary) if isinstance(encoder, CategoricalEncoder) else None
        given, made = (_without_one(tuple(values.shape[1:])) for values in (target, tensor))
        if made == () and last_activation(model, index, len(flat)) == "softmax":
            raise ModelError(f"{output} is a softmax of one unit, which is always 1; use sigmoid")
        if loss and (problem := _problem(loss, classes, given, made, label=label, output=output)) is not None:
            raise ModelError(problem)
        if loss in _CODES and classes is not None and made[0] > classes:
            log.warning(
                "%s has %d classes and %s %d values: scoring gives them as they are, without classes",
                *(label, classes, output, made[0]),
            )


def _problem(
    loss: str, classes: int | None, given: tuple[int, ...], made: tuple[int, ...], *, label: str, output: str
) -> str | None:
    """Build the error message, with the way out, if the output cannot learn its label with Keras' loss; else None.

    `classes`: how many a categorical label has; `given`, `made`: the shapes of a row of the label and of the output,
    without a 1 at the end.
    """
    if loss in _EACH_VALUE and given != made:
        return (
            f"{label} has rows of shape {given}, and {output} gives {made}, which {loss} cannot compare; "
            "make them the same"
        )
    if given != () or len(made) > 1:
        return None
    units = made[0] if made else 1
    if loss in _ONE_HOT and units > 1:
        way_out = (
            "use sparse_categorical_crossentropy"
            if loss == "categorical_crossentropy"
            else "use a loss of class codes, or one of your own that makes them one-hot (keras.ops.one_hot)"
        )
        return f"{label} is one class code for a row, and {loss} of {output} wants {units} values for a row; {way_out}"
    if loss in (*_ONE_HOT, *_CODES) and units == 1:
        return (
            f"{output} is one unit, of which {loss} learns nothing; use Dense({classes or 'number of classes'}, "
            "'softmax') with sparse_categorical_crossentropy, or, for two classes, Dense(1, 'sigmoid') with "
            "binary_crossentropy"
        )
    if loss in _ONE_UNIT and (units > 1 or (classes or 2) > 2):
        has = f"{units} units" if units > 1 else f"one unit, and {label} has {classes} classes"
        return (
            f"{output} has {has}, and {loss} tells two classes by one unit; use Dense({classes or units}, 'softmax') "
            "with sparse_categorical_crossentropy" + (", or Dense(1)" if (classes or 2) == 2 else "")
        )
    if loss in _CODES and classes is not None and units < classes:
        return f"{label} has {classes} classes, and {output} gives {units} values; use Dense({classes})"
    return None


def _result(model: Any, inputs: Any) -> Any:
    """Return the model's symbolic outputs in its own structure; None if Keras cannot infer them (and fails later)."""
    functional = getattr(model, "_functional", None) or model
    struct = getattr(functional, "_outputs_struct", None)
    if struct is not None:
        return struct
    with contextlib.suppress(Exception):
        return backend.compute_output_spec(model, inputs, training=False)
    return None


def _chosen(loss: str | None, made: tuple[int, ...]) -> str | None:
    """Resolve "crossentropy" by the shape of the output, as Keras does."""
    if loss == "crossentropy":
        return "binary_crossentropy" if made[-1:] == (1,) else "sparse_categorical_crossentropy"
    return loss


def _fits(given: tuple[int | None, ...], declared: tuple[int | None, ...]) -> bool:
    """Tell whether Keras feeds rows of this shape to an input: Keras adds or removes a 1 at the end."""
    shapes = [given, (*given, 1), *([given[:-1]] if given[-1:] == (1,) else [])]
    return any(
        len(shape) == len(declared)
        and all(a is None or b is None or a == b for a, b in zip(shape, declared, strict=True))
        for shape in shapes
    )


def _without_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-1] if shape[-1:] == (1,) else shape


def _shortened(names: str) -> str:
    return names if len(names) <= 80 else f"{names[:79]}…"
