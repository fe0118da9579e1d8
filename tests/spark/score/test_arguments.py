"""Arguments of a scoring function: by their order, or by name in one struct, never swapped without a word."""

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F

import sparkdl
from sparkdl import SchemaError
from sparkdl.features import Numeric
from sparkdl.spark.errors import errors_from_workers


@pytest.fixture(scope="module")
def income(spark, tmp_path_factory) -> str:
    """A model that gives 100 * age + hours; also the SQL function `income`, over the view `people`."""
    import keras

    age, hours = keras.Input((1,), name="age"), keras.Input((1,), name="hours")
    model = keras.Model({"age": age, "hours": hours}, keras.layers.Add()([keras.layers.Rescaling(100.0)(age), hours]))
    path = str(tmp_path_factory.mktemp("income") / "model")
    sparkdl.save_model(model, path, inputs=["age", "hours"])
    sparkdl.register_udf(spark, "income", path)
    rows = spark.createDataFrame(
        [(float(i), i / 10, str(i)) for i in range(4)], "age double, hours double, word string"
    )
    rows.coalesce(1).createOrReplaceTempView("people")
    return path


EXPECTED = [100.0 * i + i / 10 for i in range(4)]


@pytest.mark.parametrize(
    "call",
    [
        "income(age, hours)",
        "income(struct(age, hours))",
        "income(struct(hours, age))",
        "income(struct(HOURS, Age))",
        "income(named_struct('hours', hours, 'age', age))",
        "income(person) ",
        "income(struct(person.*))",
    ],
)
def test_sql_takes_inputs_by_order_or_by_name(spark, income, call) -> None:
    people = "(SELECT *, named_struct('hours', hours, 'age', age) AS person FROM people)"
    found = [row.p for row in spark.sql(f"SELECT {call} AS p FROM {people} ORDER BY age").collect()]
    assert np.allclose(found, EXPECTED)


def test_column_functions_take_a_struct_by_name(spark, income) -> None:
    predict, people = sparkdl.predict_udf(income), spark.table("people").orderBy("age")
    by_name = people.withColumn("person", F.struct("hours", "age"))
    columns = [predict(F.struct("hours", "age")), predict("person"), predict(F.col("person")), predict()]
    for row, expected in zip(by_name.select(*columns).collect(), EXPECTED, strict=True):
        assert np.allclose(list(row), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("income(age)", "takes 2 columns .age, hours., 1 were given; give them in this order, or one struct"),
        ("income(age, hours, age)", "takes 2 columns .age, hours., 3 were given"),
        ("income(struct(age))", "'hours' is missing"),
        ("income(struct(age, hours, word))", "'word' is not an input of the model; known: age, hours"),
        ("income(struct(age, hours + 1))", "'hours' is missing; known: col2.*named_struct"),
        ("income(struct(struct(age, hours) AS person))", r"take 'person' apart with person\.\*"),
        # Spark casts nothing on the way to a Python function.
        ("income(age, word)", "column 'hours': values of type string"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_named(spark, income, call, message) -> None:
    with pytest.raises(SchemaError, match=message), errors_from_workers():
        spark.sql(f"SELECT {call} AS p FROM people").collect()


def test_column_functions_refuse_a_wrong_count_on_the_driver(income) -> None:
    predict = sparkdl.predict_udf(income)
    for columns in (("age",), ("age", "hours", "age"), (F.col("age"), F.col("hours"), F.col("age"))):
        with pytest.raises(SchemaError, match="takes 2 columns .age, hours."):
            predict(*columns)


def test_a_null_struct_is_a_row_of_nulls(spark, income) -> None:
    import keras

    age, hours = keras.Input((), name="age"), keras.Input((), name="hours")
    model = keras.Model({"age": age, "hours": hours}, keras.layers.Reshape((1,))(keras.layers.Add()([age, hours])))
    path = f"{income}-filled"
    sparkdl.save_model(
        model, path, inputs=[Numeric("age", scale="none", fill=7.0), Numeric("hours", scale="none", fill=1.0)]
    )
    sparkdl.register_udf(spark, "filled", path)
    found = spark.sql("SELECT filled(IF(age > 1, struct(hours, age), NULL)) AS p FROM people ORDER BY age").collect()
    assert np.allclose([row.p for row in found], [8.0, 8.0, 2.2, 3.3])
    with pytest.raises(SchemaError, match="column 'age': null"), errors_from_workers():
        spark.sql("SELECT income(IF(age > 1, struct(hours, age), NULL)) FROM people").collect()


def test_one_input_takes_a_vector_as_itself_and_a_struct_by_name(spark, tmp_path) -> None:
    import keras

    model = keras.Sequential([keras.Input((2,), name="v"), keras.layers.Dense(1, kernel_initializer="ones")])
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=["v"])
    sparkdl.register_udf(spark, "added", str(tmp_path / "m"))
    rows = spark.createDataFrame([(Vectors.dense(1.0, 2.0), 1.0), (Vectors.sparse(2, [1], [5.0]), 2.0)], ["v", "x"])
    rows.coalesce(1).createOrReplaceTempView("vectors")
    found = spark.sql("SELECT added(v) AS a, added(struct(v)) AS b, added(named_struct('V', v)) AS c FROM vectors")
    assert [list(row) for row in found.collect()] == [[3.0] * 3, [5.0] * 3]
    for call, message in (
        ("added(struct(v, x))", "'x' is not an input of the model"),
        ("added(struct(x))", "column 'v': values of type struct"),
    ):
        with pytest.raises(SchemaError, match=message), errors_from_workers():
            spark.sql(f"SELECT {call} AS p FROM vectors").collect()
