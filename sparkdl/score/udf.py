"""A trained model as a column function and as an SQL function.

Called on the driver; the function itself runs in Spark workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pyarrow as pa

from sparkdl import storage
from sparkdl.data.features import Encoder
from sparkdl.errors import ConfigError, LaunchError, SchemaError, shown
from sparkdl.model.custom_objects import check_custom_objects
from sparkdl.model.signature import Signature
from sparkdl.score.outputs import check_returns, spark_type
from sparkdl.score.predictor import ScoreTask, predict_batches
from sparkdl.spark_columns import column

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

__all__ = ["DEFAULT_BATCH_SIZE", "predict_udf", "register_udf", "score_task"]

DEFAULT_BATCH_SIZE = 1024


def predict_udf(
    model_dir: str,
    *,
    returns: str = "raw",
    batch_size: int = DEFAULT_BATCH_SIZE,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Callable[..., Column]:
    """The model as a function of the raw columns, for `select`, `withColumn` and `filter`.

    Args:
        model_dir: as in `result.model_dir`.
        returns: "raw", the model's output: a number for an output of one unit, else a (nested) array, a struct by
            output name for several outputs; or "class", the class of a categorical label.
        batch_size: rows of one call of the model.
        custom_objects, safe_mode: as in `load_model`. The objects travel to the workers as functions do in Spark:
            those of modules by name, so that the workers must have the module.

    Returns:
        A function of column names or Columns, in the order of the features; without arguments it takes the columns by
        the features' names.

    Raises:
        ModelError: no model there, or it has no classes.
        ConfigError: an option is wrong.
        SchemaError: when called with another number of columns than the model has inputs.
    """
    task = score_task(
        model_dir, returns=returns, batch_size=batch_size, custom_objects=custom_objects, safe_mode=safe_mode
    )
    udf = _pandas_udf(task)
    names = task.signature.input_names

    def predict(*columns: str | Column) -> Column:
        if not columns:
            columns = tuple(column(name) for name in names)
        if len(columns) != len(names):
            raise SchemaError(f"the model takes {len(names)} columns ({', '.join(names)}), {len(columns)} were given")
        if all(isinstance(c, str) for c in columns) and columns != names and set(columns) == set(names):
            raise SchemaError(
                f"the columns {', '.join(map(str, columns))} are in another order than the model's inputs "
                f"({', '.join(names)})"
            )
        return udf(*[column(c) if isinstance(c, str) else c for c in columns])

    predict.__doc__ = f"Predict from the columns {', '.join(names)}."
    return predict


def register_udf(
    spark: SparkSession,
    name: str,
    model_dir: str,
    *,
    returns: str = "raw",
    batch_size: int = DEFAULT_BATCH_SIZE,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> None:
    """Make the model an SQL function: `SELECT id, income(age, job) FROM people`. Arguments are as in `predict_udf`."""
    if not (isinstance(name, str) and name.isidentifier()):
        raise ConfigError(f"{shown(name)} is no name of an SQL function; use letters, digits and underscores")
    if spark.sql(f"SHOW SYSTEM FUNCTIONS LIKE '{name.lower()}'").count():
        raise ConfigError(f"{name!r} is a function of Spark's own, which it would replace; choose another name")
    task = score_task(
        model_dir,
        returns=returns,
        batch_size=batch_size,
        custom_objects=custom_objects,
        safe_mode=safe_mode,
        spark=spark,
    )
    spark.udf.register(name, _pandas_udf(task))


def score_task(
    model_dir: str,
    *,
    returns: str,
    batch_size: int,
    custom_objects: Mapping[str, Any] | None,
    safe_mode: bool,
    spark: SparkSession | None = None,
) -> ScoreTask:
    """The checked task that travels to the workers; `spark` is the active session if it is not given."""
    model_dir = storage.absolute(model_dir)
    signature = Signature.read(model_dir)
    check_returns(signature, returns)
    check_custom_objects(custom_objects)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ConfigError(f"batch_size={shown(batch_size)} must be a whole number of at least 1")
    return ScoreTask(
        model_dir=model_dir,
        signature=signature,
        returns=returns,
        batch_size=batch_size,
        safe_mode=safe_mode,
        custom_objects=cloudpickle.dumps(dict(custom_objects or {})),
        cores=int(_conf(spark, "spark.task.cpus", "1")),
        time_zone=_conf(spark, "spark.sql.session.timeZone", "UTC"),
    )


def _conf(spark: SparkSession | None, name: str, default: str) -> str:
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    try:
        spark = spark or SparkSession.active()
    except PySparkException as error:
        raise LaunchError("no active SparkSession; start one before you make a UDF") from error
    return spark.conf.get(name, default) or default


def _pandas_udf(task: ScoreTask) -> Any:
    import pandas as pd
    from pyspark.sql.pandas.functions import pandas_udf

    # One argument comes as a Series, several as a tuple of them.
    def predict(batches: Iterator[Any]) -> Iterator[Any]:
        arrow = (
            [
                _series_to_arrow(series, encoder, _time_zone(task))
                for series, encoder in zip(
                    batch if isinstance(batch, tuple) else (batch,), task.signature.inputs, strict=True
                )
            ]
            for batch in batches
        )
        for predictions in predict_batches(arrow, task):
            yield _arrow_to_pandas(predictions)

    # The kind of UDF is read off its hints, which must be classes, not the strings that this module's hints are.
    several_in, several_out = len(task.signature.inputs) > 1, len(task.signature.outputs) > 1
    taken = tuple[pd.Series, ...] if several_in else pd.Series
    given = pd.DataFrame if several_out else pd.Series
    predict.__annotations__ = {"batches": Iterator[taken], "return": Iterator[given]}  # type: ignore[valid-type]
    make: Any = pandas_udf  # its overloads know no iterators
    return make(predict, spark_type(task.signature, task.returns))


def _time_zone(task: ScoreTask) -> str:
    """The session's time zone in the query that runs: Spark tells its tasks what is set; else it is the machine's."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return (context.getLocalProperty("spark.sql.session.timeZone") if context else None) or task.time_zone


def _arrow_to_pandas(column: pa.Array) -> Any:
    """Predictions as Spark takes them from a pandas UDF: a struct is a DataFrame, its fields the outputs."""
    import pandas as pd

    if pa.types.is_struct(column.type):
        return pd.DataFrame({field.name: _arrow_to_pandas(column.field(field.name)) for field in column.type})
    nested = pa.types.is_list(column.type) and pa.types.is_list(column.type.value_type)
    # pandas would hold arrays of arrays there, which Spark cannot convert back.
    return pd.Series(column.to_pylist() if nested else column.to_pandas())


# The structs that features take, ML vectors and Spark's images: pandas makes fractions of whole numbers beside a null,
# and has no type for nulls alone.
_STRUCT_FIELDS = {
    "type": pa.int8(),
    "size": pa.int32(),
    "indices": pa.list_(pa.int32()),
    "values": pa.list_(pa.float64()),
    "origin": pa.string(),
    "height": pa.int32(),
    "width": pa.int32(),
    "nChannels": pa.int32(),
    "mode": pa.int32(),
    "data": pa.binary(),
}


def _series_to_arrow(series: Any, encoder: Encoder, time_zone: str) -> pa.Array:
    """A UDF argument as the Arrow column that it came from; a struct (an ML vector) comes as a DataFrame.

    A moment comes as the clock of the session's time zone. Raises SchemaError for a clock time that comes twice, where
    the zone sets its clocks back: which of the two it was is lost.
    """
    import pandas as pd

    if isinstance(series, pd.DataFrame):
        fields = [pa.array(series[name], type=_STRUCT_FIELDS.get(name), from_pandas=True) for name in series.columns]
        # A null struct comes as nulls in all of its fields.
        missing = np.logical_and.reduce([np.asarray(field.is_null()) for field in fields])
        return pa.StructArray.from_arrays(fields, names=list(series.columns), mask=pa.array(missing))
    if getattr(encoder, "unit", None) == "seconds" and series.dtype.kind == "M" and series.dt.tz is None:
        known = series.dt.tz_localize(time_zone, ambiguous="NaT", nonexistent="raise")
        lost = known.isna() & series.notna()
        if lost.any():
            raise SchemaError(
                f"column {encoder.name!r}: {series[lost].iloc[0]} comes twice in time zone {time_zone}; use transform, "
                "or set spark.sql.session.timeZone to UTC"
            )
        series = known
    # Inside arrays NaN is a value; in a column of numbers pandas has nothing else for null.
    return pa.array(series, from_pandas=series.dtype != object)


def check_input_columns(columns: list[str], signature: Signature) -> None:
    """Raise SchemaError if a DataFrame lacks a column of the model's inputs."""
    from sparkdl.errors import near_miss

    for name in signature.input_names:
        if columns.count(name) > 1:
            raise SchemaError(f"the model's input column {name!r} is {columns.count(name)} times in the DataFrame")
        if name not in columns:
            raise SchemaError(f"the model's input column {name!r} is not in the DataFrame{near_miss(name, columns)}")
