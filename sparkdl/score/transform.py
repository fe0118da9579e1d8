"""Score a whole DataFrame.

Called on the driver. Only the model's inputs go through Spark workers, Arrow in and Arrow out; the other columns stay
in Spark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparkdl.errors import SchemaError
from sparkdl.model.signature import Signature
from sparkdl.score.options import DEFAULT_BATCH_SIZE, ScoreOptions
from sparkdl.score.udf import scoring_udf
from sparkdl.score.worker.encode import check_types
from sparkdl.score.worker.metrics import ScoreMetrics
from sparkdl.score.worker.spec import ScoreSpec, score_spec
from sparkdl.spark.arrow_types import arrow_type_of
from sparkdl.spark.columns import column, require_columns
from sparkdl.spark.table_formats import check_plan

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["scored_frame", "transform"]


def transform(
    df: DataFrame,
    model_dir: str,
    *,
    output_col: str = "prediction",
    returns: str = "raw",
    k: int = 5,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_error: str = "raise",
    device: str = "auto",
    metrics: ScoreMetrics | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> DataFrame:
    """Add the prediction as a column to a DataFrame, also of a stream; every other column and every row stays.

    Args:
        df: raw rows, with a column for each of the model's inputs.
        model_dir: the path of a model, as in `result.model_dir`.
        output_col: the name of the new column.
        on_error: "raise", as in `predict_udf`; or "null", a row that cannot be scored has the prediction null, and the
            reason in a second new column, `<output_col>_error`, a string, null for all others.
        returns, k, batch_size, device, metrics, custom_objects, safe_mode: as in `predict_udf`.

    Raises:
        ModelError: `model_dir` holds no model, or the model has no classes.
        ConfigError: an option is wrong, or the plan reads the files of a Delta, Hudi or Iceberg table as plain Parquet.
        SchemaError: an input column is missing or of a type that its encoder does not take, or a new column already
            exists.
    """
    options = ScoreOptions(returns, k, batch_size, on_error, device, custom_objects, safe_mode, output_col)
    return scored_frame(df, model_dir, options, metrics)[0]


def scored_frame(
    df: DataFrame, model_dir: str, options: ScoreOptions, metrics: ScoreMetrics | None
) -> tuple[DataFrame, ScoreSpec]:
    """Add the prediction as `transform` does; return the DataFrame, and what workers need to score."""
    task, signature = score_spec(model_dir, options)
    check_plan(df)
    inputs = _input_columns(df, signature)
    new = options.new_columns(df.columns)
    # Spark computes a UDF that is marked as random once for a row, and not again for a filter over the predictions.
    udf = scoring_udf(task, signature, metrics, with_reasons=len(new) > 1).asNondeterministic()
    scored = _read_by_rows(df).select("*", udf(*inputs).alias(options.output_col))
    if len(new) > 1:
        both = column(options.output_col)
        scored = scored.withColumns(dict(zip(new, (both["prediction"], both["error"]), strict=True)))
    return scored, task


# Spark's setting that lets UDFs take batches of columns, and the first version that has it.
_TAKES_BATCHES = "spark.sql.execution.arrow.pythonUDF.columnarInput.enabled"
_SINCE = (4, 2)


def _read_by_rows(df: DataFrame) -> DataFrame:
    """Put a filter that every row passes before the UDF, so that Spark does not hand it the batches of a file's reader.

    Spark takes such batches past a UDF column by column, value by value unless they are Arrow's, and makes new ones of
    all columns behind it, which took a third longer than rows do (`benchmarks/score.py`). At columns of user-defined
    types, as vectors are, it fails (UNSUPPORTED_DATATYPE from its RowToColumnarConverter).
    """
    from pyspark.sql import functions as F

    spark = df.sparkSession
    version = tuple(int(part) for part in spark.version.split(".")[:2])  # vendors add "-amzn-1" and the like
    if version < _SINCE or spark.conf.get(_TAKES_BATCHES) != "true":
        return df
    return df.filter(F.spark_partition_id() >= 0)


def _input_columns(df: DataFrame, signature: Signature) -> list[Column | str]:
    """Return the columns of the model's inputs. Raises SchemaError for a missing one, and for one of a wrong type."""
    from pyspark.errors import PySparkException

    try:
        found = require_columns(df, signature.input_names)
    except SchemaError as error:
        raise SchemaError(f"the model's input {error}") from error
    types = {}
    for field in df.select(*found).schema:
        name, type_ = field.name, field.dataType
        try:
            types[name] = arrow_type_of(type_)
        except PySparkException as error:
            raise SchemaError(
                f"the model's input column {name!r} is of type {type_.simpleString():.80}, which Spark gives to no "
                "UDF; cast it before"
            ) from error
    check_types(signature.inputs, types)
    return found
