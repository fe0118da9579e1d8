"""Refuse outputs that are not numbers, by their names, when a model is saved: predictions could not return them.

Works on tensors and on Keras' symbolic ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkdl.errors import ModelError

__all__ = ["check_numbers"]

# Types for which numpy has the type or a wider one. Spark has no type for the last line, which scoring refuses.
_NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("bfloat16", "float16", "float32", "float64"),
    *("uint64", "complex64", "complex128"),
)


def check_numbers(names: Sequence[str], tensors: Sequence[Any]) -> None:
    """Raise ModelError for the first output that is not a dense tensor of numbers, with rows."""
    for name, tensor in zip(names, tensors, strict=True):
        kind = _kind(tensor)
        if kind is not None:
            string = ", or give the code that the string is looked up by, and label= for the strings"
            raise ModelError(
                f"output {name!r} is {kind}, and a prediction must be a tensor of numbers with a row for each input "
                f"row; leave it out (keras.Model(model.inputs, …)){string if kind == 'of dtype string' else ''}"
            )


def _kind(tensor: Any) -> str | None:
    """Say in words what kind of output is refused; None for a dense tensor of numbers."""
    shape, dtype = getattr(tensor, "shape", None), getattr(tensor, "dtype", None)
    kind = type(tensor).__name__
    if shape is None or dtype is None or kind in ("RaggedTensor", "SparseTensor", "IndexedSlices"):
        return f"a {kind}"
    if len(shape) == 0:
        return "one value for all rows"
    layer: Any = getattr(getattr(tensor, "_keras_history", None), "operation", None)
    if type(layer).__name__ == "StringLookup" and layer.invert:  # Keras reports int64 for it
        return "of dtype string"
    name = getattr(dtype, "name", str(dtype))  # a string, or a type of TensorFlow's or numpy's
    if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
        return "sparse or ragged"
    return None if name in _NUMBERS else f"of dtype {name}"
