"""Describe a model's outputs: names, classes, and whether values are probabilities.

Runs wherever a model is saved, and in ranks before training; works on tensors and on Keras' symbolic ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from sparkdl.data.features import Encoder
from sparkdl.errors import ConfigError
from sparkdl.model.activations import PROBABILITIES, SIGNED, UNSIGNED, activation_of, function_name
from sparkdl.model.number_outputs import check_numbers
from sparkdl.model.said import Said, SaidOfOutput
from sparkdl.model.signature import Output, output_classes, unique_names

__all__ = [
    "flat_outputs",
    "keras_loss",
    "last_activation",
    "loss_of",
    "own_output_names",
    "outputs_of",
    "unknown_classes",
    "unknown_values",
]

# The classes of Keras' losses; each has a function of the same name.
_LOSSES = (
    *("BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy"),
    *("SparseCategoricalCrossentropy", "Hinge", "SquaredHinge", "CategoricalHinge", "KLDivergence", "Huber", "LogCosh"),
    *("MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredLogarithmicError", "Poisson"),
)
# Losses that take each unit for a separate two-class problem: the units' probabilities do not add up to 1.
_BINARY = ("binary_crossentropy", "binary_focal_crossentropy")
_MARGIN = ("hinge", "squared_hinge", "categorical_hinge")  # the sign of the prediction tells the class
# Losses that regress on the codes 0 and 1, so that the middle between them divides the classes.
_REGRESSION = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")


def outputs_of(
    model: Any, result: Any, label_encoders: Sequence[Encoder], said: Said | None = None, *, trained_here: bool = True
) -> list[Output]:
    """Describe each output, in the flat order of `result`.

    Args:
        model: the model whose call gave `result`.
        result: tensors in the structure that the model returns, symbolic or not.
        label_encoders: the encoders of the labels that the model was trained on.
        said: the caller's description of the outputs; the rest follows from names, losses and last activations.
        trained_here: whether `fit` trained the model, on label codes that are 0, 1, …

    Raises:
        ConfigError: `said` names no output, or says what the model contradicts.
        ModelError: an output is not a tensor of numbers.
    """
    import keras

    flat = flat_outputs(result)
    own_names = own_output_names(model, result)
    check_numbers(own_names, flat)
    names = unique_names(own_names)
    said = said or Said()
    shapes = [tuple(int(length) for length in tensor.shape[1:]) for tensor in flat]
    losses = [loss_of(model, name, index, len(flat)) for index, name in enumerate(own_names)]
    learned = () if said.labels else label_encoders
    labels = _label_outputs(own_names, shapes, list(map(_learns, losses)), learned, trained_here=trained_here)
    outputs = []
    for index, (name, shape, own) in enumerate(zip(names, shapes, said.of(names), strict=True)):
        classes = output_classes(shape, own.label or labels[index])
        values, threshold = None, 0.5
        _check_said(own, name, shape, classes)
        if classes is not None:
            activation = last_activation(model, index, len(flat))
            if own.logits and activation in PROBABILITIES:
                raise ConfigError(f"logits=True, but output {name!r} passes through {activation}; leave logits out")
            units = shape[0] if shape else 1
            values, threshold = _values(own.logits, losses[index], activation, units=units, codes=trained_here)
            if own.threshold is not None:
                values, threshold = "scores" if values == "unknown" else values, own.threshold
        dtype = keras.backend.standardize_dtype(flat[index].dtype)
        outputs.append(Output(name, dtype, shape, classes, threshold, values))
    return outputs


def _check_said(said: SaidOfOutput, name: str, shape: tuple[int, ...], classes: Sequence[Any] | None) -> None:
    """Raise ConfigError if what the caller says of an output does not apply to that output."""
    if said.label is not None and classes is None:
        raise ConfigError(
            f"label: output {name!r} has rows of shape {shape}, which are not one value for each class, nor one for two"
        )
    if said.logits is not None and classes is None:
        raise ConfigError(f"logits: output {name!r} has no classes; give label=, or leave logits out")
    if said.threshold is not None and (classes is None or shape not in ((), (1,))):
        why = "has no classes; give label=" if classes is None else "has a value for each class"
        raise ConfigError(f"threshold: output {name!r} {why}, or give a dict of the outputs of one unit")


def flat_outputs(result: Any) -> list[Any]:
    """Flatten a model's result to tensors in the order of the signature: lists in order, dicts by sorted keys.

    Sorted, because Keras keeps the order of an OrderedDict, but turns it into a dict when it loads the model.
    """
    return [tensor for _, tensor in _with_paths(result, ())]


def _with_paths(result: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    if isinstance(result, Mapping):
        entries: Any = sorted(result.items(), key=lambda entry: str(entry[0]))
    elif isinstance(result, (list, tuple)):
        entries = enumerate(result)
    else:
        return [(path, result)]
    return [found for key, value in entries for found in _with_paths(value, (*path, key))]


def own_output_names(model: Any, result: Any) -> list[str]:
    """Return the model's name of each output, in flat order: its key or keys, its layer's name, or output_0, …"""
    paths = [path for path, _ in _with_paths(result, ())]
    if isinstance(result, Mapping):
        return ["_".join(map(str, path)) for path in paths]
    names = list(getattr(model, "output_names", None) or [])
    return names if len(names) == len(paths) else [f"output_{index}" for index in range(len(paths))]


def unknown_values(outputs: Sequence[Output]) -> str:
    """Describe the outputs whose values may be probabilities or logits, and the way out; "" for no such output."""
    unknown = [output.name for output in outputs if output.values == "unknown"]
    if not unknown:
        return ""
    return (
        f"nothing tells whether the values of output {', '.join(map(repr, unknown))} are probabilities or logits, "
        "neither a loss of Keras' nor a last sigmoid or softmax (a tanh may have learned -1 and 1, or 0 and 1): "
        "returns='top_k', and returns='class' of one unit, are refused; set sparkdl_logits = True (or False) on your "
        "loss, or give save_model logits=True (or False), or threshold=0.0 where the classes part at 0 (0.5: 0 and 1)"
    )


def unknown_classes(outputs: Sequence[Output], label_encoders: Sequence[Encoder]) -> str:
    """Describe a label whose classes no output is known to give, though some could, and the way out; "" otherwise."""
    if len(label_encoders) != 1 or any(output.classes is not None for output in outputs):
        return ""
    could = [output.name for output in outputs if output_classes(output.shape, label_encoders[0]) is not None]
    if not could:
        return ""
    return (
        f"nothing tells which of the outputs {', '.join(repr(output.name) for output in outputs)} gives the classes of "
        f"label {label_encoders[0].name!r}, neither its name nor a loss for classes: returns='class' and 'top_k' are "
        f"refused; give label={{{could[0]!r}: …}} to save_model, or name the output after the label"
    )


def loss_of(model: Any, name: str, index: int, count: int) -> Any:
    """Return the compiled loss of an output, as the user gave it; None for an output without a loss.

    Keras' own list of losses is not used: Keras makes it when the model is first trained, and again after loading.
    """
    import keras

    compiled = getattr(model, "_compile_loss", None)
    loss = getattr(compiled, "_user_loss", None)
    if isinstance(loss, Mapping):
        loss = next(iter(loss.values())) if len(loss) == count == 1 else loss.get(name)
    elif isinstance(loss, (list, tuple)):
        loss = loss[index] if len(loss) == count else None
    if isinstance(loss, (list, tuple)):
        loss = loss[0] if len(loss) == 1 else None
    if isinstance(loss, str) and loss.lower() not in ("crossentropy", "ce"):
        with contextlib.suppress(ValueError):  # a name that Keras itself will refuse
            return keras.losses.get(loss)
    return loss


def _values(said: bool | None, loss: Any, activation: str | None, *, units: int, codes: bool) -> tuple[str, float]:
    """Return the kind of values of a class output (see `Output.values`), and the threshold between two classes.

    `codes`: whether a regression is known to have learned the codes 0 and 1.
    """
    if units > 1 and activation != "softmax" and keras_loss(loss) in _BINARY and said is not False:
        return "scores", 0.5
    if said is not None:
        return ("logits", 0.0) if said else ("probabilities", 0.5)
    taken = _values_taken_by(loss)
    if taken == "logits":
        return ("unknown", 0.5) if activation in PROBABILITIES else ("logits", 0.0)
    if activation == "sigmoid" and units > 1:
        return "scores", 0.5  # each between 0 and 1, but the sum is not 1
    if activation in ("softmax", "sigmoid") or taken == "probabilities":
        return "probabilities", 0.5
    if taken == "margin":
        return ("unknown", 0.5) if units == 1 and activation in UNSIGNED else ("scores", 0.0)
    if taken == "regression":
        return ("unknown", 0.5) if units == 1 and activation in SIGNED and not codes else ("scores", 0.5)
    return "unknown", 0.5


def _label_outputs(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    learns: Sequence[str | None],
    labels: Sequence[Encoder],
    *,
    trained_here: bool,
) -> list[Encoder | None]:
    """Return the label that each output learned; None for an output that is not known to have learned a label.

    An output learned a label by its name, by its loss (`learns`, as `_learns` returned it), or because it is the only
    one. As many units as the label has classes prove nothing: they may be an embedding, or a reconstruction.
    """
    by_name = {label.name: label for label in labels}
    found = [by_name.get(name) for name in names]
    if len(labels) != 1 or any(label is not None for label in found):
        return found
    if len(names) == 1:
        return [labels[0]]
    with_loss = [index for index, loss in enumerate(learns) if loss is not None]
    takes = [index for index in with_loss if learns[index] == "classes" and output_classes(shapes[index], labels[0])]
    if not takes and len(with_loss) == 1 and (trained_here or learns[with_loss[0]] == "unknown"):
        takes = with_loss
    if len(takes) == 1:  # several outputs may have learned different classes
        found[takes[0]] = labels[0]
    return found


def _learns(loss: Any) -> str | None:
    """Return the purpose of a compiled loss: "classes", "numbers", or "unknown"; None without a loss."""
    if loss is None:
        return None
    if _values_taken_by(loss) in ("logits", "probabilities", "margin"):
        return "classes"
    return "unknown" if keras_loss(loss) is None else "numbers"


def _values_taken_by(loss: Any) -> str | None:
    """Return the values that a loss takes: "logits", "probabilities", "margin" or "regression"; None if not known."""
    function = getattr(loss, "fn", None)
    for own in (loss, function):
        if isinstance(said := getattr(own, "sparkdl_logits", None), bool):
            return "logits" if said else "probabilities"
    if isinstance(said := getattr(loss, "from_logits", None), bool):
        return "logits" if said else "probabilities"
    name = keras_loss(loss)
    if name is None:
        return None
    if name.endswith("crossentropy"):
        return "logits" if getattr(loss, "_fn_kwargs", {}).get("from_logits") else "probabilities"
    return "margin" if name in _MARGIN else "regression" if name in _REGRESSION else None


def keras_loss(loss: Any) -> str | None:
    """Return the name of a compiled loss if it is a loss of Keras' that this module knows; None for all others."""
    import keras

    if isinstance(loss, str):  # "crossentropy", which Keras resolves by the shapes
        return "crossentropy"
    for class_name in _LOSSES:
        name, its_class = function_name(class_name), getattr(keras.losses, class_name)
        function = getattr(keras.losses, name)
        if loss is function or (type(loss).__module__.startswith("keras.") and getattr(loss, "fn", None) is function):
            return name
        kind = type(loss)
        if issubclass(kind, its_class) and (kind.call, kind.__call__) == (its_class.call, its_class.__call__):
            return name
    return None


def last_activation(model: Any, index: int, count: int) -> str | None:
    """Return an output's last activation (`activation_of`) in a functional or Sequential model; None if not known."""
    # A functional model's outputs in their structure, because `outputs` flattens them in Keras' order.
    struct = getattr(model, "_outputs_struct", None)
    tensors = flat_outputs((getattr(model, "outputs", None) or []) if struct is None else struct)
    return activation_of(tensors[index]) if len(tensors) == count else None
