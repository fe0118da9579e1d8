"""Find the activation that a functional or Sequential model ends in, by walking back from an output's tensor.

Pure; runs wherever a model is saved, and in ranks before training.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["PROBABILITIES", "SIGNED", "UNSIGNED", "activation_of", "function_name"]

# Activations that turn a logit into a probability.
PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid", "sparse_sigmoid")
# Activations with values between -1 and 1: the middle between two classes is 0, unless the classes are 0 and 1.
SIGNED = ("tanh", "hard_tanh", "softsign", "cosine")
# Activations that are never below 0, and hardly ever 0: the sign of their values says nothing about the class.
UNSIGNED = ("hard_sigmoid", "sparse_sigmoid", "softplus", "exponential")

_KNOWN = {name: name for name in (*PROBABILITIES, *SIGNED, *UNSIGNED)} | {"softmax_v2": "softmax", "exp": "exponential"}
# Layers and operations that are themselves an activation, of the same name as a function.
_BY_THEMSELVES = (
    *("Softmax", "Sigmoid", "HardSigmoid", "SparseSigmoid", "Tanh", "HardTanh", "Softsign", "Softplus", "Exp"),
)
# Layers that change no value of a row when the model predicts.
_AS_IT_IS = ("Reshape", "Flatten", "Identity", "Dropout", "Squeeze", "ExpandDims", "Cast")
_ACTIVATED = ("Activation", "Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D")
# Layers whose activation is followed by nothing but factors between 0 and 1.
_RECURRENT = ("LSTM", "GRU", "SimpleRNN")


def activation_of(tensor: Any) -> str | None:
    """Return the activation that made a tensor, if this module knows it; "cosine" for a product of unit vectors."""
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    layer, kind = history.operation, type(history.operation)
    if hasattr(layer, "outputs") and hasattr(layer, "layers"):  # a model within the model
        return activation_of(layer.outputs[history.tensor_index]) if layer.outputs else None
    if kind.__module__.split(".")[0] != "keras":
        return None
    name, inputs = kind.__name__, layer._inbound_nodes[history.node_index].input_tensors
    if name == "Average":
        found = {activation_of(given) for given in inputs}
        return found.pop() if len(found) == 1 else None
    if name == "Dot":
        return "cosine" if layer.normalize else None
    if name in _BY_THEMSELVES:
        on_classes = getattr(layer, "axis", -1) in (-1, len(tensor.shape) - 1)
        return _KNOWN[function_name(name)] if on_classes else None
    own = _name_of(getattr(layer, "activation", None)) if name in (*_ACTIVATED, *_RECURRENT) else None
    if name in _RECURRENT:
        return own if own in SIGNED else None
    if own not in (None, "linear"):
        return _KNOWN.get(str(own))
    if name in _AS_IT_IS or (name == "Activation" and own == "linear"):
        return activation_of(inputs[0])
    return None


def function_name(class_name: str) -> str:
    """Return Keras' name for the function that does what a class does: `hard_tanh` for HardTanh."""
    return re.sub("(?<!^)(?=[A-Z][a-z])", "_", class_name).lower()


def _name_of(activation: Any) -> str | None:
    """Return the name of an activation of Keras or TensorFlow; None for the user's, whose name proves nothing."""
    library = str(getattr(activation, "__module__", "")).split(".")[0] in ("keras", "tensorflow")
    return getattr(activation, "__name__", None) if library else None
