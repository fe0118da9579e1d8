"""Convert the model's arrays to predictions, and give the type of a prediction.

Pure; used on the driver (types) and in Spark workers (values).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sparkdl.data.features.columns import arrow_type, to_arrow
from sparkdl.errors import ModelError
from sparkdl.model.signature import Output, Signature, output_classes

__all__ = ["Returns", "check_returns", "not_numbers", "prediction_column", "prediction_type", "row_bytes"]

# Types of numpy numbers that Spark lacks; `load_model` predicts them.
_NO_SPARK_TYPE = ("uint64", "complex64", "complex128")

# The error that probabilities may have: a sum of bfloat16 values, each rounded by 1/256 of itself, and their softmax.
_ROUNDING = 0.03


@dataclass(frozen=True, slots=True)
class Returns:
    """Say what a prediction is: "raw", "class", or "top_k", the `k` most probable classes.

    Of several outputs, "class" is the class of those that have classes, and the raw value of the others.
    """

    kind: str
    k: int

    def of(self, output: Output) -> str:
        """Return what is returned of one output: "raw", "class" or "top_k"."""
        return "raw" if self.kind == "class" and output.classes is None else self.kind


def check_returns(signature: Signature, returns: Returns) -> None:
    """Raise ModelError for types that Spark lacks, and for missing classes."""
    for output in signature.outputs:
        if output.dtype in _NO_SPARK_TYPE:
            raise ModelError(
                f"output {output.name!r} is of dtype {output.dtype}, for which Spark has no type; save a model that "
                "casts it to int64, or gives its real and imaginary parts"
            )
    without = [output for output in signature.outputs if output.classes is None]
    if any(returns.of(output) == "top_k" for output in without) or (
        returns.kind == "class" and len(without) == len(signature.outputs)
    ):
        raise ModelError(_no_classes(without[0], signature, returns))
    for output in signature.outputs:
        if returns.of(output) != "raw":
            _check_values_known(output, returns)


def _no_classes(output: Output, signature: Signature, returns: Returns) -> str:
    """Return the error message for an output without classes: the reason, from the signature, and the way out."""
    start = f"returns={returns.kind!r}: output {output.name!r} has no classes: "
    if len(signature.outputs) == 1 or not any(output_classes(output.shape, label) for label in signature.labels):
        return f"{start}its label is not categorical, or its shape is not one value per class; use returns='raw'"
    with_classes = [repr(other.name) for other in signature.outputs if other.classes is not None]
    return (
        f"{start}neither its name nor its loss tells that it learned a label ("
        + (f"{', '.join(with_classes)} did" if with_classes else "no output's does")
        + f"); use returns='raw', or sparkdl.save_model(…, label={{{output.name!r}: …}}) if it did, or save a model "
        "without it"
    )


def _check_values_known(output: Output, returns: Returns) -> None:
    """Raise ModelError if `returns` depends on the kind of the output's values, and the kind is not known."""
    if output.values == "unknown" and (returns.kind == "top_k" or output.is_scalar):
        raise ModelError(
            f"returns={returns.kind!r}: nothing tells whether the values of output {output.name!r} are probabilities "
            "or logits (its loss is not Keras' own or is missing, or it ends in a tanh that may have learned -1 and "
            "1); use returns='raw', set sparkdl_logits = True or False on the loss, or save the model with "
            "sparkdl.save_model(…, logits=True or False), or threshold=0.0 (for returns='class') where the two "
            "classes part at 0, 0.5 where they were 0 and 1"
        )
    if output.values == "scores" and returns.kind == "top_k":
        raise ModelError(
            f"returns='top_k': the values of output {output.name!r} are scores without probabilities, as its loss and "
            "last activation tell; use returns='class' or 'raw'"
        )


def prediction_type(signature: Signature, returns: Returns) -> pa.DataType:
    """Return the Arrow type of a prediction.

    It is a number or (nested) list, a class, or a list of classes with probabilities; for several outputs a struct by
    output name.
    """
    types = [(output.name, _output_type(output, returns)) for output in signature.outputs]
    return types[0][1] if len(types) == 1 else pa.struct([pa.field(name, type_) for name, type_ in types])


def row_bytes(signature: Signature) -> int:
    """Return the bytes of a row of all encoded inputs, or of all outputs, whichever are more."""
    given = sum(encoder.dtype.itemsize * int(np.prod(encoder.shape)) for encoder in signature.inputs)
    made = sum(output.numpy_dtype.itemsize * int(np.prod(output.shape)) for output in signature.outputs)
    return max(given, made)


def not_numbers(results: Mapping[str, np.ndarray], signature: Signature) -> dict[int, str]:
    """Return the rows for which an output with classes is NaN, with the reason: NaN determines no class."""
    problems: dict[int, str] = {}
    for output in (one for one in signature.outputs if one.classes is not None):
        values = results[output.name]
        if values.dtype.kind == "f" and np.isnan(values).any():
            rows: list[int] = np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(axis=1)).tolist()
            problems = dict.fromkeys(rows, f"output {output.name!r} is NaN: no class") | problems
    return problems


def prediction_column(
    results: Mapping[str, np.ndarray], signature: Signature, returns: Returns, *, missing: np.ndarray | None = None
) -> pa.Array:
    """Return the predictions of some rows as an Arrow column of `prediction_type`.

    Args:
        results: by output name, each of shape ``(rows, *output.shape)``.
        signature, returns: describe the outputs and what to return of them.
        missing: bool, shape ``(rows,)``: the rows that get null.

    Raises ModelError for values that are not the probabilities that the signature takes them for.
    """
    for output in signature.outputs:
        if returns.of(output) != "raw":
            values = results[output.name]
            _check_probabilities(values if missing is None else values[~missing], output, returns)
    columns = [_output_column(results[output.name], output, returns) for output in signature.outputs]
    column = columns[0]
    if len(columns) > 1:
        column = pa.StructArray.from_arrays(columns, names=[output.name for output in signature.outputs])
    if missing is None:
        return column
    return column.take(pa.array(np.arange(len(column)), mask=missing))


def _check_probabilities(values: np.ndarray, output: Output, returns: Returns) -> None:
    """Raise ModelError for values that prove not to be probabilities, if what is returned depends on them."""
    if output.values != "probabilities" or not (returns.kind == "top_k" or output.is_scalar):
        return
    found = None
    outside = (values < -_ROUNDING) | (values > 1 + _ROUNDING)
    if outside.any():
        found = f"{values[outside][0]:.6g}"
    elif not output.is_scalar:
        sums = values.sum(axis=1, dtype=np.float64)
        wrong = np.abs(sums - 1) > _ROUNDING
        found = f"a row with the sum {sums[wrong][0]:.6g}" if wrong.any() else None
    if found is not None:
        raise ModelError(
            f"returns={returns.kind!r}: output {output.name!r} gives {found}, so its values are not probabilities; if "
            "they are logits, save the model with sparkdl.save_model(…, logits=True), else use returns='raw'"
        )


def _output_type(output: Output, returns: Returns) -> pa.DataType:
    if returns.of(output) == "raw":
        return arrow_type(output.numpy_dtype, () if output.is_scalar else output.shape)
    class_ = pa.string() if isinstance((output.classes or ("",))[0], str) else pa.int64()
    if returns.kind == "class":
        return class_
    return pa.list_(pa.struct([("class", class_), ("probability", arrow_type(output.numpy_dtype, ()))]))


def _output_column(values: np.ndarray, output: Output, returns: Returns) -> pa.Array:
    if returns.of(output) == "raw":
        return to_arrow(values.reshape(len(values)) if output.is_scalar else values)
    classes = pa.array(output.classes)
    if returns.kind == "class":
        return classes.take(pa.array(_codes(values, output)))
    probabilities = _probabilities(values, output)
    # Stable: of equal probabilities the first class comes first, as in "class".
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, : returns.k]
    chosen = np.take_along_axis(probabilities, best, axis=1)
    fields = [classes.take(pa.array(best.reshape(-1))), to_arrow(chosen.reshape(-1))]
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(best.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(fields, ["class", "probability"]))


def _codes(values: np.ndarray, output: Output) -> np.ndarray:
    """Return the code of the chosen class of each row, int64."""
    if output.is_scalar:
        return (values.reshape(len(values)) > output.threshold).astype(np.int64)
    return values.argmax(axis=1)


def _probabilities(values: np.ndarray, output: Output) -> np.ndarray:
    """Return the probability of each class, shape ``(rows, classes)``; from logits by sigmoid or softmax."""
    is_logit = output.values == "logits"
    if output.is_scalar:
        second = values.reshape(len(values), 1)
        if is_logit:
            # Also for large values neither side overflows or is rounded to 0.
            with np.errstate(over="ignore"):
                return np.concatenate([1 / (1 + np.exp(second)), 1 / (1 + np.exp(-second))], axis=1)
        return np.concatenate([1 - second, second], axis=1)
    if not is_logit:
        return values
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
