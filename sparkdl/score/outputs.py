"""What scoring gives back: the Spark type of a prediction and the conversion from the model's arrays.

Pure; used on the driver (types) and in Spark workers (values).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sparkdl.data.columns import arrow_type, to_arrow
from sparkdl.errors import ConfigError, ModelError, shown
from sparkdl.model.signature import Output, Signature

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

__all__ = ["RETURNS", "check_returns", "prediction_column", "prediction_type", "spark_type"]

RETURNS = ("raw", "class")


def check_returns(signature: Signature, returns: str) -> None:
    """Raise ConfigError for an unknown `returns`, ModelError for classes that the model does not have."""
    if returns not in RETURNS:
        raise ConfigError(f"returns={shown(returns)} must be one of {', '.join(RETURNS)}")
    without = [output.name for output in signature.outputs if output.classes is None]
    if returns == "class" and without:
        raise ModelError(
            f"output {without[0]!r} has no classes: its label is not categorical, or its shape is not one "
            "value per class; use returns='raw'"
        )


def prediction_type(signature: Signature, returns: str) -> pa.DataType:
    """The Arrow type of a prediction: a number or (nested) list, a class; a struct by output name for several."""
    types = [(output.name, _output_type(output, returns)) for output in signature.outputs]
    return types[0][1] if len(types) == 1 else pa.struct([pa.field(name, type_) for name, type_ in types])


def spark_type(signature: Signature, returns: str) -> DataType:
    """The same as a Spark type."""
    from pyspark.sql.pandas.types import from_arrow_type

    return from_arrow_type(prediction_type(signature, returns))


def prediction_column(results: Mapping[str, np.ndarray], signature: Signature, returns: str) -> pa.Array:
    """The predictions of some rows as an Arrow column of `prediction_type`.

    `results`: by output name, each of shape ``(rows, *output.shape)``.
    """
    columns = [_output_column(results[output.name], output, returns) for output in signature.outputs]
    if len(columns) == 1:
        return columns[0]
    return pa.StructArray.from_arrays(columns, names=[output.name for output in signature.outputs])


def _output_type(output: Output, returns: str) -> pa.DataType:
    if returns == "class":
        return pa.string() if isinstance((output.classes or ("",))[0], str) else pa.int64()
    return arrow_type(output.numpy_dtype, () if output.is_scalar else output.shape)


def _output_column(values: np.ndarray, output: Output, returns: str) -> pa.Array:
    if returns == "class":
        classes = pa.array(output.classes, type=_output_type(output, returns))
        return classes.take(pa.array(_codes(values, output)))
    return to_arrow(values.reshape(len(values)) if output.is_scalar else values)


def _codes(values: np.ndarray, output: Output) -> np.ndarray:
    """The code of the chosen class of each row, int64."""
    if output.is_scalar:
        return (values.reshape(len(values)) > output.threshold).astype(np.int64)
    return values.argmax(axis=1)
