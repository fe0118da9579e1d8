"""Score a whole DataFrame, Arrow in and Arrow out: the fast path.

Called on the driver; the rows pass through Spark workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkdl.errors import ConfigError, SchemaError, shown
from sparkdl.score.outputs import spark_type
from sparkdl.score.predictor import predict_batches
from sparkdl.score.udf import DEFAULT_BATCH_SIZE, check_input_columns, score_task
from sparkdl.spark_columns import map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["transform"]


def transform(
    df: DataFrame,
    model_dir: str,
    *,
    output_col: str = "prediction",
    returns: str = "raw",
    batch_size: int = DEFAULT_BATCH_SIZE,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> DataFrame:
    """The DataFrame with one more column, the prediction; every other column and every row stays.

    Args:
        df: raw rows, with a column for each of the model's inputs.
        model_dir: as in `result.model_dir`.
        output_col: the new column's name.
        returns, batch_size, custom_objects, safe_mode: as in `predict_udf`.

    Raises:
        ModelError: no model there, or it has no classes.
        SchemaError: an input column is missing, or `output_col` is already there.
    """
    from pyspark.sql.types import StructField, StructType

    task = score_task(
        model_dir,
        returns=returns,
        batch_size=batch_size,
        custom_objects=custom_objects,
        safe_mode=safe_mode,
        spark=df.sparkSession,
    )
    check_input_columns(df.columns, task.signature)
    if not isinstance(output_col, str) or not output_col:
        raise ConfigError(f"output_col={shown(output_col)} must be the name of a column")
    # Spark's names do not tell upper from lower case.
    if output_col.lower() in (name.lower() for name in df.columns):
        raise SchemaError(f"the DataFrame already has a column {output_col!r}; choose another output_col")
    names = task.signature.input_names

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []

        def inputs() -> Iterator[list[pa.Array]]:
            for batch in batches:
                waiting.append(batch)
                yield [batch.column(batch.schema.get_field_index(name)) for name in names]

        for prediction in predict_batches(inputs(), task):
            batch = waiting.pop()
            yield pa.RecordBatch.from_arrays([*batch.columns, prediction], names=[*batch.schema.names, output_col])

    schema = StructType([*df.schema.fields, StructField(output_col, spark_type(task.signature, returns))])
    return map_in_arrow(df, score, schema)
