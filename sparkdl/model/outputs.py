"""Find what a model gives: a name for each output, its classes, and whether its values are probabilities.

Runs wherever a model is saved, and in ranks before training; works on tensors and on Keras' symbolic ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from sparkdl.data.features import Encoder
from sparkdl.errors import ConfigError, near_miss, shown
from sparkdl.model.signature import Output, output_classes, unique_names

__all__ = [
    "flat_outputs",
    "keras_loss",
    "last_activation",
    "loss_of",
    "own_output_names",
    "outputs_of",
    "unknown_values",
]

# Keras' losses by the names of their functions and classes.
_CLASSES = {
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "hinge": "Hinge",
    "squared_hinge": "SquaredHinge",
    "categorical_hinge": "CategoricalHinge",
    "kl_divergence": "KLDivergence",
    "mean_squared_error": "MeanSquaredError",
    "mean_absolute_error": "MeanAbsoluteError",
    "mean_absolute_percentage_error": "MeanAbsolutePercentageError",
    "mean_squared_logarithmic_error": "MeanSquaredLogarithmicError",
    "huber": "Huber",
    "log_cosh": "LogCosh",
    "poisson": "Poisson",
}
# Losses that take each unit for a class of its own: together the units' probabilities are not 1.
_BINARY = ("binary_crossentropy", "binary_focal_crossentropy")
_MARGIN = ("hinge", "squared_hinge", "categorical_hinge")  # the sign of the prediction tells the class
# Losses that regress on the codes 0 and 1, so that the middle between them divides the classes.
_REGRESSION = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")
# Layers that change no value of a row when the model predicts.
_AS_IT_IS = ("Reshape", "Flatten", "Identity", "Dropout", "Squeeze", "ExpandDims", "Cast")
_ACTIVATED = ("Activation", "Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D")


def outputs_of(
    model: Any,
    result: Any,
    label_encoders: Sequence[Encoder],
    logits: bool | Mapping[str, bool] | None = None,
) -> list[Output]:
    """Describe each output, in the flat order of `result`.

    Args:
        model: whose call gave `result`.
        result: tensors in the structure that the model gives, symbolic or not.
        label_encoders: of the labels that it was trained on.
        logits: whether class outputs are logits, for all or by output; None: as loss and last activation tell.

    Raises ConfigError for `logits` that name no output, or that the model contradicts.
    """
    import keras

    flat = flat_outputs(result)
    own_names = own_output_names(model, result)
    names = unique_names(own_names)
    labels = {encoder.name: encoder for encoder in label_encoders}
    only_label = label_encoders[0] if len(label_encoders) == 1 else None
    said = _said_logits(logits, names)
    outputs = []
    for place, (own_name, name, tensor) in enumerate(zip(own_names, names, flat, strict=True)):
        shape = tuple(int(length) for length in tensor.shape[1:])
        classes = output_classes(shape, labels.get(own_name, only_label))
        values, threshold = None, 0.5
        if classes is not None:
            loss = loss_of(model, own_name, place, len(flat))
            activation = last_activation(model, place, len(flat))
            if said[name] and activation is not None:
                raise ConfigError(f"logits=True, but output {name!r} passes through {activation}; leave logits out")
            values, threshold = _values(said[name], loss, activation, units=shape[0] if shape else 1)
        elif said[name] is not None:
            raise ConfigError(f"logits: output {name!r} has no classes; give label=, or leave logits out")
        outputs.append(Output(name, keras.backend.standardize_dtype(tensor.dtype), shape, classes, threshold, values))
    return outputs


def flat_outputs(result: Any) -> list[Any]:
    """The tensors of what a model gives, in the order of the signature's outputs: that of lists, and of sorted keys.

    Keras keeps the order of an OrderedDict, and makes a dict of it when it loads the model.
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
    """The name that the model itself gives each output, in flat order: its key or keys, its layer's, or output_0, …"""
    paths = [path for path, _ in _with_paths(result, ())]
    if isinstance(result, Mapping):
        return ["_".join(map(str, path)) for path in paths]
    names = list(getattr(model, "output_names", None) or [])
    return names if len(names) == len(paths) else [f"output_{place}" for place in range(len(paths))]


def unknown_values(outputs: Sequence[Output]) -> str:
    """Describe the outputs of which nothing tells what their values are, and the way out; "" if there are none."""
    unknown = [output.name for output in outputs if output.values == "unknown"]
    if not unknown:
        return ""
    return (
        f"nothing tells whether the values of output {', '.join(map(repr, unknown))} are probabilities or logits, "
        "neither a loss of Keras' nor a last sigmoid or softmax: returns='top_k', and returns='class' of one unit, are "
        "refused; set sparkdl_logits = True (or False) on your loss, or give logits=True (or False) to save_model"
    )


def loss_of(model: Any, name: str, place: int, count: int) -> Any:
    """The compiled loss of an output, as the user gave it; None if it has none.

    Not Keras' own list of losses, which it makes when the model is first trained, and again after loading.
    """
    import keras

    compiled = getattr(model, "_compile_loss", None)
    loss = getattr(compiled, "_user_loss", None)
    if isinstance(loss, Mapping):
        loss = next(iter(loss.values())) if len(loss) == count == 1 else loss.get(name)
    elif isinstance(loss, (list, tuple)):
        loss = loss[place] if len(loss) == count else None
    if isinstance(loss, (list, tuple)):
        loss = loss[0] if len(loss) == 1 else None
    if isinstance(loss, str) and loss.lower() not in ("crossentropy", "ce"):
        with contextlib.suppress(ValueError):  # of a name that Keras will refuse
            return keras.losses.get(loss)
    return loss


def _said_logits(logits: object, names: Sequence[str]) -> dict[str, bool | None]:
    """What the caller says of each output. Raises ConfigError for what is no answer, and for unknown outputs."""
    given: Mapping[Any, Any] = logits if isinstance(logits, Mapping) else dict.fromkeys(names, logits)
    for name, value in given.items():
        if name not in names:
            raise ConfigError(f"logits: {shown(name)} is not an output of the model{near_miss(str(name), names)}")
        if value is not None and not isinstance(value, bool):
            raise ConfigError(f"logits={shown(logits)} must be True, False, None, or a dict of these by output")
    return {name: given.get(name) for name in names}


def _values(said: bool | None, loss: Any, activation: str | None, *, units: int) -> tuple[str, float]:
    """What the values of a class output are (see `Output.values`), and the threshold between two classes."""
    if units > 1 and activation != "softmax" and keras_loss(loss) in _BINARY and said is not False:
        return "scores", 0.5
    if said is not None:
        return ("logits", 0.0) if said else ("probabilities", 0.5)
    told = _told_by(loss)
    if told == "logits":
        return ("logits", 0.0) if activation is None else ("unknown", 0.5)
    if activation == "sigmoid" and units > 1:
        return "scores", 0.5  # each between 0 and 1, and together not 1
    if activation is not None or told == "probabilities":
        return "probabilities", 0.5
    if told == "margin":
        return "scores", 0.0
    return ("scores", 0.5) if told == "regression" else ("unknown", 0.5)


def _told_by(loss: Any) -> str | None:
    """What a loss takes: "logits", "probabilities", "margin" or "regression"; None where it does not tell."""
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
    """The name of Keras' function that a compiled loss is, as far as this module knows it; None for all others."""
    import keras

    if isinstance(loss, str):  # "crossentropy", of which Keras makes one by the shapes
        return "crossentropy"
    for name, class_name in _CLASSES.items():
        function, its_class = getattr(keras.losses, name), getattr(keras.losses, class_name)
        if loss is function or (type(loss).__module__.startswith("keras.") and getattr(loss, "fn", None) is function):
            return name
        kind = type(loss)
        if issubclass(kind, its_class) and (kind.call, kind.__call__) == (its_class.call, its_class.__call__):
            return name
    return None


def last_activation(model: Any, place: int, count: int) -> str | None:
    """ "softmax" or "sigmoid", if that is what a functional or Sequential model ends in; else None."""
    # Those of a functional model in their own structure, which `outputs` flattens in Keras' order.
    struct = getattr(model, "_outputs_struct", None)
    tensors = flat_outputs((getattr(model, "outputs", None) or []) if struct is None else struct)
    return _activation_of(tensors[place]) if len(tensors) == count else None


def _activation_of(tensor: Any) -> str | None:
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    layer, kind = history.operation, type(history.operation)
    if hasattr(layer, "outputs") and hasattr(layer, "layers"):  # a model within the model
        return _activation_of(layer.outputs[history.tensor_index]) if layer.outputs else None
    if kind.__module__.split(".")[0] != "keras":
        return None
    inputs = layer._inbound_nodes[history.node_index].input_tensors
    if kind.__name__ == "Average":
        found = {_activation_of(given) for given in inputs}
        return found.pop() if len(found) == 1 else None
    if kind.__name__ in ("Softmax", "Sigmoid"):
        on_classes = getattr(layer, "axis", -1) in (-1, len(tensor.shape) - 1)
        return kind.__name__.lower() if on_classes else None
    activation = None
    if kind.__name__ in _ACTIVATED:
        activation = getattr(layer.activation, "__name__", None)
        if not _is_plain(layer.activation):
            return None
        if activation != "linear":
            return {"softmax": "softmax", "softmax_v2": "softmax", "sigmoid": "sigmoid"}.get(str(activation))
    if kind.__name__ in _AS_IT_IS or (kind.__name__ == "Activation" and activation == "linear"):
        return _activation_of(inputs[0])
    return None


def _is_plain(activation: Any) -> bool:
    """Whether an activation is a library's, so that its name tells what it does."""
    return str(getattr(activation, "__module__", "")).split(".")[0] in ("keras", "tensorflow")
