"""Make a trained model a column function or an SQL function.

Called on the driver; the functions run in Spark workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sparkdl.errors import ConfigError, shown
from sparkdl.model.signature import Signature
from sparkdl.score.arguments import check_order, count_error
from sparkdl.score.options import DEFAULT_BATCH_SIZE, ScoreOptions
from sparkdl.score.worker.metrics import ScoreMetrics
from sparkdl.score.worker.predictions import prediction_type
from sparkdl.score.worker.spec import ScoreSpec, score_spec
from sparkdl.spark.columns import column

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

__all__ = ["predict_udf", "register_udf", "scoring_udf"]


def predict_udf(
    model_dir: str,
    *,
    returns: str = "raw",
    k: int = 5,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_error: str = "raise",
    device: str = "auto",
    metrics: ScoreMetrics | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Callable[..., Column]:
    """Make the model a function of the raw columns, for `select`, `withColumn` and `filter`, in streams too.

    Args:
        model_dir: the path of a model, as in `result.model_dir`.
        returns: "raw", the model's output: a number for an output of one unit, else a (nested) array; "class", the
            class of a categorical label; or "top_k", the most probable classes, best first, an array of structs
            (class, probability). Of several outputs a struct by output name.
        k: the number of classes for "top_k".
        batch_size: rows of one call of the model.
        on_error: "raise", a row that cannot be scored fails the job with its column, number and reason; or "null", its
            prediction is null (of several outputs, each is). `transform` gives the reasons, too.
        device: "auto", the GPU if Spark gives the task one; "cpu"; or "gpu", which fails without a GPU.
        metrics: the object that gets the counts and times.
        custom_objects, safe_mode: as in `load_model`. The objects travel to the workers as functions do in Spark:
            objects of modules by name, so that the workers must have the module.

    Returns:
        A function of column names or Columns, in the order of the features. Two swapped columns of one type give wrong
        numbers, unless they are given as names: the name of another input is an error. A struct is taken apart by the
        names of its fields, in any order: `predict(F.struct("age", "job"))`. Without arguments the function takes the
        columns by the features' names.

        The function scores with the model that it was made for. When the model directory holds another model, or the
        user's code has changed, every query that uses the function fails, in all workers: make the function again.

    Raises:
        ModelError: `model_dir` holds no model, or the model has no classes.
        ConfigError: an option is wrong.
        SchemaError: when called with another number of columns than the model has inputs, or in another order of names;
            in a query, with a struct whose fields are not the model's inputs.
    """
    options = ScoreOptions(returns, k, batch_size, on_error, device, custom_objects, safe_mode)
    task, signature = score_spec(model_dir, options)
    udf = scoring_udf(task, signature, metrics)
    names = signature.input_names

    def predict(*columns: str | Column) -> Column:
        if not columns:
            columns = tuple(column(name) for name in names)
        # One column may be a struct that names all inputs; only workers see its type.
        by_name = len(columns) == 1 and not (isinstance(columns[0], str) and columns[0] in names)
        if len(columns) != len(names) and not by_name:
            raise count_error(names, len(columns))
        if not by_name:
            check_order(names, columns)
        return udf(*[column(c) if isinstance(c, str) else c for c in columns])

    predict.__doc__ = f"Predict from the columns {', '.join(names)}."
    return predict


def register_udf(
    spark: SparkSession,
    name: str,
    model_dir: str,
    *,
    returns: str = "raw",
    k: int = 5,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_error: str = "raise",
    device: str = "auto",
    metrics: ScoreMetrics | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> None:
    """Make the model an SQL function: `SELECT id, income(age, job) FROM people`.

    SQL gives arguments by their order, so that two swapped arguments of one type go unnoticed. One struct gives them by
    name: `income(struct(age, job))`, `income(named_struct('job', occupation, 'age', years))`, or `income(person)` for
    a column that is such a struct. Arguments of `register_udf` are as in `predict_udf`.
    """
    if not (isinstance(name, str) and name.isidentifier()):
        raise ConfigError(f"name={shown(name)} must name an SQL function; use letters, digits and underscores")
    if spark.sql(f"SHOW SYSTEM FUNCTIONS LIKE '{name.lower()}'").count():
        raise ConfigError(f"{name!r} is a function of Spark's own, which it would replace; choose another name")
    options = ScoreOptions(returns, k, batch_size, on_error, device, custom_objects, safe_mode)
    task, signature = score_spec(model_dir, options)
    spark.udf.register(name, scoring_udf(task, signature, metrics))


def scoring_udf(
    task: ScoreSpec, signature: Signature, metrics: ScoreMetrics | None, *, with_reasons: bool = False
) -> Any:
    """Make the UDF that scores; `with_reasons`, it returns a struct of the prediction and the row's error.

    From PySpark 4.1 on it is an Arrow UDF, before it is a pandas UDF that is given Arrow (`arrow_udf`).
    """
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql.pandas import functions
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StringType, StructType

    accumulator = None if metrics is None else metrics.accumulator
    by_pandas = not hasattr(functions, "arrow_udf")

    def predict(batches: Iterator[Any]) -> Iterator[Any]:
        from sparkdl.score.worker.arrow_udf import leave_arrow, pieces_of, to_pandas
        from sparkdl.score.worker.scoring import piece_rows, score_batches
        from sparkdl.spark.python_worker import drop_zip_importers

        drop_zip_importers()
        if by_pandas:
            leave_arrow()
        for scored in score_batches(pieces_of(batches, rows=piece_rows(task)), task, accumulator):
            column = scored.with_reasons() if with_reasons else scored.prediction
            yield to_pandas(column) if by_pandas else column

    made = from_arrow_type(prediction_type(signature, task.returns))
    if with_reasons:
        made = StructType().add("prediction", made).add("error", StringType())
    # Spark reads the kind of UDF off its hints, which must be classes, not strings as the hints of this module are.
    column_type: Any = pd.Series if by_pandas else pa.Array
    taken: Any = tuple[column_type, ...] if len(signature.inputs) > 1 else column_type
    given: Any = pd.DataFrame if by_pandas and isinstance(made, StructType) else column_type
    predict.__annotations__ = {"batches": Iterator[taken], "return": Iterator[given]}
    make: Any = functions.pandas_udf if by_pandas else functions.arrow_udf
    return make(predict, made)
