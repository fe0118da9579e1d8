"""The name of an input: what is not told, and what is not known to be a function of files."""

import pytest

from sparkdl import ConfigError, PrepareConfig
from sparkdl.data.prepare.fingerprint import normalised, obstacle_in, without_secrets
from sparkdl.data.prepare.sizing import rows_per_batch

SQL = "org.apache.spark.sql."


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("s3a://key:secret@bucket/data", "s3a://bucket/data"),
        ("https://user@host/data?sig=secret", "https://host/data"),
        ("file:/data/a@b?c", "file:/data/a@b?c"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
    ],
)
def test_credentials_are_not_shown(path: str, shown: str) -> None:
    assert without_secrets(path) == shown


@pytest.mark.parametrize(
    "name",
    [
        "catalyst.plans.logical.GlobalLimit",
        "catalyst.plans.logical.of.another.Project",
        "catalyst.expressions.PythonUDF",
        "catalyst.expressions.objects.Invoke",
        "hive.HiveSimpleUDF",
        "execution.LogicalRDD",
    ],
)
def test_a_node_that_is_not_known_is_named(name: str) -> None:
    known = {"class": SQL + "catalyst.plans.logical.Project", "list": [[{"class": SQL + "catalyst.expressions.Add"}]]}
    assert obstacle_in([known]) == ""
    known["list"].append([{"class": SQL + name}])
    assert obstacle_in([known]) == f"its plan holds {name.rsplit('.', 1)[1]}"


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ("today", True),
        (" Yesterday UTC", True),
        ("now", True),
        ("tomorrow+01:00", True),
        ("epoch", False),
        ("nowhere", False),
    ],
)
def test_text_that_spark_takes_for_the_day_of_the_query_names_no_rows(text: str, moves: bool) -> None:
    """`day < 'today'` is one plan every day."""
    literal = {"class": SQL + "catalyst.expressions.Literal", "num-children": 0, "value": text, "dataType": "string"}
    found = obstacle_in([{"class": SQL + "catalyst.plans.logical.Filter", "condition": [literal]}])
    assert bool(found) == moves
    assert not moves or found.endswith("which Spark may take for the time of now")


def test_numbers_of_columns_and_tables_count_from_the_first() -> None:
    def plan(column, other, table):
        def number(n):
            return {"product-class": SQL + "catalyst.expressions.ExprId", "id": n, "jvmId": "x"}

        return [
            {"class": SQL + "catalyst.plans.logical.CTERelationDef", "id": table},
            {"cteId": table, "exprId": number(column), "desc": {"createTime": column}},
            {"exprId": number(other), "id": 5},
        ]

    assert normalised(plan(17, 18, 3)) == normalised(plan(170, 4, 9)) != normalised(plan(17, 17, 3))
    assert normalised(plan(1, 2, 3))[2]["id"] == 5


@pytest.mark.parametrize("version", ["", True, 1.5, ("a",)])
def test_a_version_is_a_word_or_a_number(version: object) -> None:
    with pytest.raises(ConfigError, match="version="):
        PrepareConfig(path="d", features=["x"], version=version)


def test_batches_are_small_where_rows_are_large() -> None:
    assert rows_per_batch(["double", "string"]) == rows_per_batch(["double"], 160) == 10_000
    assert rows_per_batch(["array<double>"]) == rows_per_batch(["vector"]) == 512
    assert rows_per_batch(["array<double>"], 1 << 20) == 16
    assert rows_per_batch(["binary", "bigint"]) == rows_per_batch(["binary"], 4) == 64
    assert rows_per_batch(["array<double>"], 1 << 30) == 1
