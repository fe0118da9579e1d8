"""Prepare: what is stored is what was given, in an order that depends on the rows alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import sparkdl
from sparkdl import ConfigError, DatasetError, PrepareConfig, SchemaError, Split
from sparkdl.data.feed.feed import Feed
from sparkdl.features import Categorical, Numeric, Tensor

THIRDS = Split.fraction({"train": 0.6, "val": 0.2, "test": 0.2}, seed=3, key="id")


@pytest.fixture(scope="module")
def people(spark):
    rng = np.random.default_rng(0)
    rows = [
        (
            i,
            float(rng.normal(40, 10)) if i % 7 else None,
            ["clerk", "cook", "smith"][i % 3],
            [float(i), -float(i)],
            i % 2,
            1.0 + i % 4,
        )
        for i in range(500)
    ]
    return spark.createDataFrame(
        rows, "id long, age double, job string, hours array<double>, income int, weight double"
    )


def prepare(people, path, **options):
    given = {
        "features": [Numeric("age", fill="mean"), Categorical("job"), "hours"],
        "label": Categorical("income"),
        "keep": ["id", "job"],
        "weight": "weight",
        "splits": THIRDS,
    }
    return sparkdl.prepare(people, PrepareConfig(path=str(path), **{**given, **options}))


@pytest.fixture(scope="module")
def dataset(people, tmp_path_factory):
    return prepare(people, tmp_path_factory.mktemp("people") / "data")


def test_every_row_is_stored_once_and_as_it_was(spark, people, dataset) -> None:
    raw = {row.id: row for row in people.collect()}
    found = [row for name in dataset.splits for row in sparkdl.read_prepared(spark, dataset.path, name).collect()]
    assert sorted(row.id for row in found) == sorted(raw)
    age, job = dataset.features["age"], dataset.features["job"]
    for row in found:
        was = raw[row.id]
        years = age.mean if was.age is None else was.age
        assert row.age == pytest.approx((years - age.mean) / age.std, rel=1e-6)
        assert row.job == job.vocabulary.index(was.job) + 1 and row.job_raw == was.job
        assert list(row.hours) == was.hours and row.income == was.income and row.weight == was.weight


def test_statistics_are_of_the_train_split_alone(people, dataset) -> None:
    ages = [r.age for r in sparkdl.split(people, dataset).where("split = 'train'").collect() if r.age is not None]
    assert dataset.features["age"].mean == pytest.approx(np.mean(ages), rel=1e-12)
    assert dataset.features["age"].std == pytest.approx(np.std(ages), rel=1e-12)


def test_raw_rows_are_told_the_split_they_were_stored_in(spark, people, dataset) -> None:
    told = {row.id: row.part for row in sparkdl.split(people, dataset, column="part").collect()}
    for name in dataset.splits:
        stored = {row.id for row in sparkdl.read_prepared(spark, dataset.path, name).collect()}
        assert stored == {i for i, part in told.items() if part == name}


def test_the_stored_order_does_not_depend_on_partitions(spark, people, dataset, tmp_path) -> None:
    again = prepare(people.orderBy("age").repartition(7), tmp_path / "again")
    for name in dataset.splits:
        orders = [[r.id for r in sparkdl.read_prepared(spark, d.path, name).collect()] for d in (dataset, again)]
        assert orders[0] == orders[1]
        assert dataset.split(name).row_group_rows == again.split(name).row_group_rows
    other = prepare(people, tmp_path / "other", seed=1)
    assert [r.id for r in sparkdl.read_prepared(spark, other.path, "train").collect()] != [
        r.id for r in sparkdl.read_prepared(spark, dataset.path, "train").collect()
    ]


def test_a_split_by_key_keeps_a_keys_rows_together(spark, tmp_path) -> None:
    visits = spark.range(300).selectExpr("id", "id % 40 as patient", "double(id) as x")
    ds = sparkdl.prepare(
        visits,
        PrepareConfig(
            path=str(tmp_path / "d"), features=["x"], splits=Split.fraction({"train": 0.5, "test": 0.5}, key="patient")
        ),
    )
    splits_of_patient = sparkdl.split(visits, ds).groupBy("patient").agg({"split": "approx_count_distinct"}).collect()
    assert all(row[1] == 1 for row in splits_of_patient)


def test_a_column_may_name_the_split(spark, tmp_path) -> None:
    rows = spark.range(30).selectExpr("double(id) as x", "case when id < 20 then 'train' else 'test' end as part")
    ds = sparkdl.prepare(
        rows, PrepareConfig(path=str(tmp_path / "d"), features=["x"], splits=Split.column("part", ["train", "test"]))
    )
    assert (ds.split("train").rows, ds.split("test").rows) == (20, 10)
    with pytest.raises(DatasetError, match="10 rows have no split"):
        sparkdl.prepare(
            rows, PrepareConfig(path=str(tmp_path / "e"), features=["x"], splits=Split.column("part", ["train"]))
        )


def test_row_groups_are_equal_but_for_the_last_of_a_part(dataset) -> None:
    for part in dataset.parts:
        assert len(set(part.row_groups[:-1])) <= 1 and part.row_groups[-1] <= part.row_groups[0]


def test_the_files_hold_what_the_manifest_says(dataset) -> None:
    import pyarrow.parquet as pq

    listed = {part.file for part in dataset.parts}
    assert {str(f.relative_to(dataset.path)) for f in Path(dataset.path).rglob("*.parquet")} == listed
    for part in dataset.parts:
        footer = pq.ParquetFile(Path(dataset.path) / part.file).metadata
        assert tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups)) == part.row_groups


def test_a_dataset_opens_as_it_was_prepared(dataset) -> None:
    opened = sparkdl.open_dataset(dataset.path)
    assert opened == dataset
    assert opened.classes == (0, 1) and list(opened.features) == ["age", "job", "hours"]


def test_preparing_again_replaces_the_dataset_and_open_handles_stay_readable(spark, people, tmp_path) -> None:
    first = prepare(people, tmp_path / "d")
    second = prepare(people.limit(200), tmp_path / "d")
    assert sum(second.split(n).rows for n in second.splits) == 200
    assert sparkdl.open_dataset(str(tmp_path / "d")) == second
    rows = sum(
        int(b.rows.sum())
        for b in Feed(first, first.split("train"), rank=0, world_size=1, global_batch_size=50, seed=0).blocks([0])
    )
    assert rows == first.split("train").rows
    prepare(people.limit(300), tmp_path / "d")
    replaced = "prepared anew since it was opened, and its folder keeps the last two: open it again by"
    with pytest.raises(DatasetError, match=replaced):
        list(Feed(first, first.split("train"), rank=0, world_size=1, global_batch_size=50, seed=0).blocks([0]))
    config = sparkdl.TrainConfig(run_dir=str(tmp_path / "run"), epochs=1, global_batch_size=50)
    with pytest.raises(DatasetError, match=replaced):
        sparkdl.fit(lambda ds: None, first, config, launch=sparkdl.LaunchConfig(num_workers=1, local=True))
    assert not (tmp_path / "run").exists()


def test_a_failed_prepare_leaves_the_old_dataset_and_no_files(people, tmp_path) -> None:
    first = prepare(people, tmp_path / "d")
    before = sorted(str(f) for f in (tmp_path / "d").rglob("*"))
    with pytest.raises(SchemaError, match="column 'age': null without a policy"):
        prepare(people, tmp_path / "d", features=["age"])
    assert sorted(str(f) for f in (tmp_path / "d").rglob("*")) == before
    assert sparkdl.open_dataset(first.path) == first


def test_vectors_of_spark_ml_are_stored_dense(spark, tmp_path) -> None:
    from pyspark.ml.linalg import Vectors

    rows = [(Vectors.dense([1.0, 0.0, 2.0]), 0), (Vectors.sparse(3, {1: 5.0}), 1), (Vectors.sparse(3, {}), 0)]
    df = spark.createDataFrame(rows, ["v", "y"])
    ds = sparkdl.prepare(df, PrepareConfig(path=str(tmp_path / "d"), features=["v"], label="y"))
    found = sorted(list(r.v) for r in sparkdl.read_prepared(spark, ds.path, "train").collect())
    assert found == [[0.0, 0.0, 0.0], [0.0, 5.0, 0.0], [1.0, 0.0, 2.0]]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"features": ["agee"]}, SchemaError, "column 'agee' is not in the DataFrame; did you mean 'age'?"),
        (
            {"features": ["job"]},
            SchemaError,
            "column 'job': values of type string are not numbers; strings need an encoder",
        ),
        ({"features": ["age"]}, SchemaError, "column 'age': null without a policy.*; row \\d+ is None"),
        ({"features": [Numeric("age")]}, SchemaError, "column 'age': null without a policy"),
        ({"features": [Tensor("hours", shape=(3,))]}, SchemaError, "declared shape \\(3,\\)"),
        ({"features": [Categorical("hours")]}, SchemaError, "cannot be categories"),
        ({"weight": "job"}, SchemaError, "column 'job'"),
        ({"splits": Split.fraction({"train": 1 - 1e-9, "val": 1e-9}, seed=0)}, DatasetError, "split 'val' is empty"),
    ],
)
def test_bad_input_is_an_error_of_ours(people, tmp_path, options, kind, message) -> None:
    with pytest.raises(kind, match=message):
        prepare(people, tmp_path / "d", **{"keep": [], "weight": None, **options})


def test_nulls_name_every_column_that_has_them(spark, tmp_path) -> None:
    rows = spark.range(100).selectExpr(
        "id",
        "if(id % 10 = 0, null, double(id)) as few",
        "if(id % 2 = 0, double('NaN'), double(id)) as half",
        "if(id % 4 = 0, null, string(id)) as word",
        "if(id % 5 = 0, null, double(id)) as filled",
        "if(id = 7, null, 1.0) as weight",
        "if(id = 8, null, id) as kept",
        "array(1.0, double(id)) as array",
    )
    config = PrepareConfig(
        path=str(tmp_path / "d"),
        features=[Numeric("few"), Numeric("half"), Categorical("word"), Numeric("filled", fill="mean"), "array"],
        weight="weight",
        keep=["kept"],
    )
    with pytest.raises(SchemaError) as raised:
        sparkdl.prepare(rows, config)
    assert str(raised.value).endswith(
        "Missing values without a policy are in column 'half' (50 of 100 rows), column 'word' (25 of 100 rows), "
        "column 'few' (10 of 100 rows), column 'weight' (1 of 100 rows)"
    )


@pytest.mark.parametrize("role", ["features", "keep", "weight", "splits"])
@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("make_ym_interval(1, int(id))", "interval year to month"),
        ("array(make_ym_interval(1, int(id)))", "array<interval year to month>"),
        ("struct(make_interval(1, 2, 3, int(id)) as i)", "struct<i:interval>"),
        ("parse_json('1')", "variant"),
        ("map('a', parse_json('1'))", "map<string,variant>"),
    ],
)
def test_a_type_that_spark_does_not_hand_to_python_is_refused_by_name(spark, tmp_path, value, type_, role) -> None:
    if "variant" in type_ and spark.version < "4":
        pytest.skip("Spark 3.5 has no such type")
    if type_ == "struct<i:interval>" and spark.version.startswith("3.5"):
        pytest.skip("PySpark 3.5 itself fails to read such a schema, for df.columns, too")
    rows = spark.range(9).selectExpr("double(id) as x", f"{value} as t")
    given = {"features": ["x", "t"], "keep": ["t"], "weight": "t", "splits": Split.fraction({"train": 1.0}, key="t")}
    config = PrepareConfig(path=str(tmp_path / "d"), **{"features": ["x"], role: given[role]})
    with pytest.raises(SchemaError, match=f"^column 't': values of type {type_} cannot be prepared: .*; cast them"):
        sparkdl.prepare(rows, config)
    assert not (tmp_path / "d").exists()


def test_ragged_arrays_name_the_row(spark, tmp_path) -> None:
    df = spark.createDataFrame([([1.0, 2.0],), ([1.0, 2.0],), ([3.0],)], "x array<double>").coalesce(1)
    with pytest.raises(
        SchemaError, match="column 'x': axis 0 is not of length 2 \\(ragged array\\) in 1 of \\d+ rows.*\\[3.0\\]"
    ):
        sparkdl.prepare(df, PrepareConfig(path=str(tmp_path / "d"), features=["x"]))


def test_an_empty_dataframe_and_a_one_class_label_are_refused(spark, people, tmp_path) -> None:
    with pytest.raises(DatasetError, match="has no rows"):
        prepare(people.where("id < 0"), tmp_path / "a")
    with pytest.raises(SchemaError, match="label 'income' has 1 class"):
        prepare(people.where("income = 1"), tmp_path / "b")


def test_ambiguous_columns_are_refused(people, tmp_path) -> None:
    with pytest.raises(SchemaError, match="column 'age' is 2 times in the DataFrame"):
        prepare(people.select("*", "age"), tmp_path / "d")


def test_a_path_that_holds_something_else_is_refused(people, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds 'notes.txt', which is not part of a dataset"):
        prepare(people, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_missing_damaged_and_newer_datasets_are_told_apart(dataset, tmp_path) -> None:
    with pytest.raises(DatasetError, match="no prepared dataset at"):
        sparkdl.open_dataset(str(tmp_path))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        sparkdl.open_dataset(str(tmp_path))
    newer = {**dataset.to_json(), "format_version": 99}
    (tmp_path / "dataset.json").write_text(json.dumps(newer))
    with pytest.raises(DatasetError, match="format_version 99.*update sparkdl"):
        sparkdl.open_dataset(str(tmp_path))
    with pytest.raises(DatasetError, match="no split 'tset'; did you mean 'test'?"):
        dataset.split("tset")


def test_names_with_dots_spaces_and_umlauts_are_columns_like_others(spark, tmp_path) -> None:
    names = ["a.b", "c d", "e-f", "größe"]
    rows = spark.createDataFrame([(float(i), str(i % 3), float(i), i % 2) for i in range(60)], names)
    config = PrepareConfig(
        path=str(tmp_path / "d"),
        features=[Numeric("a.b"), Categorical("c d"), "e-f"],
        label=Categorical("größe"),
        keep=["a.b"],
        splits=Split.fraction({"train": 0.5, "test": 0.5}, key="a.b"),
    )
    ds = sparkdl.prepare(rows, config)
    found = sparkdl.read_prepared(spark, ds.path, "train")
    assert found.columns == ["a.b", "c d", "e-f", "größe", "a.b_raw"] and found.count() == ds.split("train").rows
    assert sparkdl.split(rows, ds).where("split = 'train'").count() == ds.split("train").rows


def test_prepared_rows_come_back_under_a_name_each_and_keep_clocks_without_a_zone(spark, tmp_path) -> None:
    rows = spark.sql(
        "SELECT double(id) AS x, float(1) AS w, int(id) AS x_raw, int(id) AS x_label, "
        "timestamp_ntz'2020-01-01 12:00:00' AS t FROM range(20)"
    )
    config = PrepareConfig(
        path=str(tmp_path / "d"), features=["x", "w", "x_label"], label="x", weight="w", keep=["x", "x_raw", "t"]
    )
    dataset = sparkdl.prepare(rows, config)
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    try:
        back = sparkdl.read_prepared(spark, dataset.path, "train")
        assert back.columns == ["x", "w", "x_label", "x_label_", "w_weight", "x_raw", "x_raw_raw", "t"]
        assert back.selectExpr("string(t)").distinct().collect()[0][0] == "2020-01-01 12:00:00"
        assert back.where("x != x_raw or x_raw != x_raw_raw").count() == 0
    finally:
        spark.conf.set("spark.sql.session.timeZone", before)


def test_what_is_no_dataframe_or_no_config_is_refused(spark, tmp_path) -> None:
    config = PrepareConfig(path=str(tmp_path / "d"), features=["x"])
    rows = spark.range(3).selectExpr("double(id) as x")
    stream = spark.readStream.format("rate").load()
    for df, options, message in (
        (rows.toPandas(), config, "prepare takes a Spark DataFrame, not DataFrame"),
        (stream, config, "not a stream"),
        (rows, {"path": "x"}, "prepare takes a PrepareConfig, not dict"),
    ):
        with pytest.raises(ConfigError, match=message):
            sparkdl.prepare(df, options)


def test_columns_are_found_as_spark_finds_them(spark, tmp_path) -> None:
    """In any case, and as fields of structs; a column of the very name goes before a field."""
    import keras

    from sparkdl.model.save import write_model

    raw = spark.range(80).selectExpr(
        "double(id) as Age",
        "named_struct('Years', double(id * 2), 'of', named_struct('id', id)) as user",
        "id as `user.x`",
    )
    features = [Tensor("age"), Tensor("user.years"), Tensor("user.x")]
    rule = Split.fraction({"train": 0.5, "test": 0.5}, key="user.of.id")
    config = PrepareConfig(path=str(tmp_path / "d"), features=features, keep=["user.of.id"], splits=rule)
    dataset = sparkdl.prepare(raw, config)
    assert dict(dataset.raw_types) == {
        "age": "double",
        "user.years": "double",
        "user.x": "bigint",
        "user.of.id": "bigint",
    }
    stored = sparkdl.read_prepared(spark, dataset.path, "train").collect()
    assert all(row["user.years"] == 2 * row["user.of.id"] == 2 * row["age"] == 2 * row["user.x"] for row in stored)
    divided = sparkdl.split(raw, dataset)
    assert divided.columns == [*raw.columns, "split"]
    assert {r["user.x"] for r in divided.where("split = 'train'").collect()} == {r["user.of.id"] for r in stored}
    inputs = {f.name: keras.Input((), name=f.name) for f in features}
    total = keras.layers.Add(name="total")([keras.layers.Reshape((1,))(value) for value in inputs.values()])
    write_model(
        keras.Model(inputs, {"total": total}),
        str(tmp_path / "m"),
        encoders=dataset.encoders,
        label_encoders=(),
        raw_types=dataset.raw_types,
    )
    scored = sparkdl.transform(raw, str(tmp_path / "m"))
    assert scored.columns == [*raw.columns, "prediction"]
    assert all(row["prediction"] == 4 * row["Age"] for row in scored.collect())
    with pytest.raises(SchemaError, match="the model's input column 'user.years' is not in the DataFrame"):
        sparkdl.transform(raw.drop("user"), str(tmp_path / "m"))


def test_names_that_differ_in_case_are_two_where_spark_says_so(spark, tmp_path) -> None:
    spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        raw = spark.range(40).selectExpr("double(id) as x", "-double(id) as X")
        dataset = sparkdl.prepare(raw, PrepareConfig(path=str(tmp_path / "d"), features=["X"], keep=["x"]))
        assert all(row["X"] == -row["x"] for row in sparkdl.read_prepared(spark, dataset.path, "train").collect())
        with pytest.raises(SchemaError, match="column 'y' is not in the DataFrame"):
            sparkdl.prepare(
                spark.range(9).selectExpr("id as Y"), PrepareConfig(path=str(tmp_path / "e"), features=["y"])
            )
    finally:
        spark.conf.unset("spark.sql.caseSensitive")
    with pytest.raises(SchemaError, match="column 'x' and 'X' are one name to Spark"):
        rows = spark.range(9).selectExpr("double(id) as x")
        sparkdl.prepare(rows, PrepareConfig(path=str(tmp_path / "f"), features=["x", "X"]))
