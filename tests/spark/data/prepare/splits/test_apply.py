"""Splits of rows: told by the rows alone, on any partitioning, column order and time zone."""

import datetime as dt
from collections import Counter

import numpy as np
import pytest

import sparkdl
from sparkdl import ConfigError, DatasetError, PrepareConfig, SchemaError, Split
from sparkdl.features import Categorical

HALVES = {"train": 0.5, "val": 0.3, "test": 0.2}


def prepared(df, path, rule, **options):
    return sparkdl.prepare(df, PrepareConfig(path=str(path), splits=rule, **{"features": ["x"], **options}))


def splits_of(df, dataset, name="id"):
    return {row[name]: row["split"] for row in sparkdl.split(df, dataset).select(f"`{name}`", "split").collect()}


def stored(spark, dataset, name="id"):
    return {
        row[name]: split
        for split in dataset.splits
        for row in sparkdl.read_prepared(spark, dataset.path, split).select(f"`{name}`").collect()
    }


@pytest.fixture(scope="module")
def visits(spark):
    return spark.range(600).selectExpr(
        "id", "concat('p', id % 90) as patient", "cast(id % 7 as smallint) as ward", "double(id) as x"
    )


@pytest.fixture(scope="module")
def by_patient(visits, tmp_path_factory):
    rule = Split.fraction(HALVES, seed=5, key=["patient", "ward"])
    return prepared(visits, tmp_path_factory.mktemp("split") / "d", rule, keep=["id"])


def test_a_split_does_not_depend_on_partitions_order_or_the_other_columns(spark, visits, by_patient) -> None:
    expected = stored(spark, by_patient)
    assert len(expected) == 600 and set(expected.values()) == {"train", "val", "test"}
    assert splits_of(visits, by_patient) == expected
    shuffled = visits.orderBy("x", ascending=False).repartition(5)
    assert splits_of(shuffled.select("ward", "id", "patient"), by_patient) == expected


def test_all_rows_of_a_key_are_in_one_split_and_shares_are_about_as_asked(visits, by_patient) -> None:
    told = sparkdl.split(visits, by_patient)
    pairs = told.select("patient", "ward", "split").distinct().count()
    assert pairs == visits.select("patient", "ward").distinct().count()
    rows = sum(by_patient.split(name).rows for name in by_patient.splits)
    for name, share in HALVES.items():
        # Six times the deviation of as many independent draws as there are keys.
        assert abs(by_patient.split(name).rows / rows - share) < 6 * np.sqrt(share * (1 - share) / pairs)


def test_another_seed_is_another_split(visits, by_patient, tmp_path) -> None:
    other = prepared(visits, tmp_path / "d", Split.fraction(HALVES, seed=6, key=["patient", "ward"]))
    assert splits_of(visits, other) != splits_of(visits, by_patient)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int(id)", "bigint(id)"),
        ("tinyint(id % 100)", "int(id % 100)"),
        ("float(id)", "double(id)"),
        ("array(smallint(id))", "array(bigint(id))"),
        ("case when id = 0 then double('-0.0') else double(id) end", "double(id)"),
    ],
)
def test_numbers_of_another_width_stay_in_their_splits(spark, tmp_path, before, after) -> None:
    first = spark.range(200).selectExpr("id", f"{before} as k", "double(id) as x")
    again = spark.range(200).selectExpr("id", f"{after} as k", "double(id) as x")
    dataset = prepared(first, tmp_path / "d", Split.fraction(HALVES, key="k"), keep=["id"])
    assert splits_of(again, dataset) == stored(spark, dataset)


@pytest.mark.parametrize("rule", [Split.fraction(HALVES), Split.fraction(HALVES, key="price"), "time"])
def test_fractions_that_come_with_more_digits_stay_in_their_splits(spark, tmp_path, rule) -> None:
    rule = Split.time("price", {"train": 50.03, "test": None}) if rule == "time" else rule
    precise = spark.range(1000).selectExpr("id", "double(round(id * 0.1 + 0.03, 2)) as price", "double(id) as x")
    assert precise.schema["price"].dataType.simpleString() == "double"
    rounded = precise.withColumn("price", precise.price.cast("float"))
    dataset = prepared(rounded, tmp_path / "d", rule, keep=["id", "price"])
    truth = stored(spark, dataset)
    for again in (rounded, precise, rounded.withColumn("price", rounded.price.cast("double"))):
        assert splits_of(again, dataset) == truth


def test_a_key_that_has_lost_digits_is_refused(spark, tmp_path) -> None:
    rows = spark.range(200).selectExpr("id", "id / 7 as price", "double(id) as x")
    dataset = prepared(rows, tmp_path / "d", Split.fraction(HALVES, key="price"), keep=["id"])
    with pytest.raises(SchemaError, match="column 'price', which was 'double' when it was prepared and is 'float' now"):
        sparkdl.split(rows.withColumn("price", rows.price.cast("float")), dataset)


def test_equal_rows_are_in_one_split_where_there_is_no_key(spark, tmp_path) -> None:
    rows = spark.range(400).selectExpr("id % 50 as id", "double(id % 50) as x", "map('a', id) as ignored")
    dataset = prepared(rows, tmp_path / "d", Split.fraction(HALVES, seed=1), keep=["id"])
    told = splits_of(rows.repartition(3), dataset)
    assert sum(dataset.split(name).rows for name in dataset.splits) == 400
    for name in dataset.splits:
        assert dataset.split(name).rows == 8 * sum(split == name for split in told.values())


TIMES = {
    "timestamp": "timestamp_seconds(1483228800 + id * 3600) as t",  # 2017-01-01T00:00Z, hour by hour
    "timestamp_ntz": "cast('2017-01-01' as timestamp_ntz) + make_dt_interval(0, id) as t",
    "date": "date_add(date'2017-01-01', int(id div 24)) as t",
    "bigint": "id * 3600 as t",
    "double": "double(id * 3600) as t",
}


@pytest.mark.parametrize("kind", TIMES)
def test_a_time_split_means_utc_in_every_sessions_time_zone(spark, tmp_path, kind) -> None:
    was = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        rows = spark.range(24 * 10).selectExpr("id", TIMES[kind], "double(id) as x")
        assert rows.schema["t"].dataType.simpleString() == kind
        ends = {"train": "2017-01-04", "val": "2017-01-06T00:00:00Z", "test": dt.date(2017, 1, 8)}
        if kind in ("bigint", "double"):
            ends = {"train": 3 * 86400, "val": 5 * 86400, "test": 7 * 86400}
        dataset = prepared(rows, tmp_path / "d", Split.time("t", ends), keep=["id"])
        days = {"train": range(3), "val": range(3, 5), "test": range(5, 7)}
        expected = {i: name for name, of in days.items() for i in range(240) if i // 24 in of}
        assert stored(spark, dataset) == expected
        assert splits_of(rows, dataset) == {i: expected.get(i) for i in range(240)}
    finally:
        spark.conf.set("spark.sql.session.timeZone", was)


def test_the_last_split_may_have_no_end(spark, tmp_path) -> None:
    rows = spark.range(100).selectExpr("id", "double(id) as x")
    dataset = prepared(rows, tmp_path / "d", Split.time("id", {"train": 70, "test": None}))
    assert (dataset.split("train").rows, dataset.split("test").rows) == (70, 30)


@pytest.mark.parametrize(
    ("time", "shown"), [("nullif(id, 3)", "None"), ("if(id = 3, double('NaN'), id)", "nan"), ("float('NaN')", "nan")]
)
@pytest.mark.parametrize("end", [None, 100])
def test_a_row_without_a_time_is_an_error_not_left_out(spark, tmp_path, time, shown, end) -> None:
    rows = spark.range(100).selectExpr(f"{time} as t", "double(id) as x")
    with pytest.raises(DatasetError, match=f"rows have no split: in one of them column 't' is {shown}.*a time"):
        prepared(rows, tmp_path / "d", Split.time("t", {"train": 70, "test": end}))


@pytest.mark.parametrize(
    ("column", "until", "message"),
    [
        ("string(id) as t", {"train": "2017-01-01"}, "column 't' is 'string'.*cast it"),
        ("id as t", {"train": "2017-01-01"}, "column 't' is bigint.*ends its splits at times"),
        ("current_date() as t", {"train": 4}, "column 't' is date.*ends its splits at numbers"),
    ],
)
def test_a_time_split_names_a_column_that_it_cannot_read(spark, tmp_path, column, until, message) -> None:
    rows = spark.range(10).selectExpr(column, "double(id) as x")
    with pytest.raises(SchemaError, match=message):
        prepared(rows, tmp_path / "d", Split.time("t", until))


def test_raw_rows_that_cannot_be_divided_are_refused(spark, visits, by_patient) -> None:
    with pytest.raises(SchemaError, match="column 'ward' is not in the DataFrame"):
        sparkdl.split(visits.drop("ward"), by_patient)
    with pytest.raises(SchemaError, match="'ward', which was 'smallint' when it was prepared and is 'string' now"):
        sparkdl.split(visits.withColumn("ward", visits.ward.cast("string")), by_patient)
    with pytest.raises(SchemaError, match="column 'ward' is 2 times in the DataFrame"):
        sparkdl.split(visits.select("*", "ward"), by_patient)
    with pytest.raises(SchemaError, match="already has a column 'X'"):
        sparkdl.split(visits, by_patient, column="X")


def test_a_map_is_no_key(spark, tmp_path) -> None:
    rows = spark.range(10).selectExpr("map('a', id) as m", "double(id) as x")
    with pytest.raises(SchemaError, match="column 'm' cannot be the key"):
        prepared(rows, tmp_path / "d", Split.fraction(HALVES, key="m"))


ODD = ["a.b", "c d", "e`f", "größe", "split", "value", "rows", "count", "group by"]


@pytest.mark.parametrize(
    "rule",
    [
        Split.fraction(HALVES, key=ODD),
        *[
            Split.time(first, {"train": 60, "test": 80}, last=last)
            for first, last in (("a.b", "e`f"), ("split", "c d"))
        ],
    ],
)
def test_columns_of_any_name_tell_the_split(spark, tmp_path, rule) -> None:
    rows = spark.createDataFrame([(float(i), *[i] * len(ODD)) for i in range(90)], ["x", *ODD])
    dataset = prepared(rows, tmp_path / "d", rule)
    told = sparkdl.split(rows, dataset, column="part").groupBy("part").count().collect()
    assert {row["part"]: row["count"] for row in told if row["part"]} == {
        name: dataset.split(name).rows for name in dataset.splits
    }
    if rule.kind == "time":
        assert (dataset.split("train").rows, dataset.split("test").rows) == (60, 20)


@pytest.fixture(scope="module")
def ratings(spark):
    """1,000 rows of classes "a" (850), "b" (149) and null (1)."""
    label = "case when id = 999 then null when id < 850 then 'a' else 'b' end"
    return spark.range(1000).selectExpr("id", f"{label} as y", "double(id * 7 % 1000) as x")


STRATIFIED = Split.fraction(HALVES, seed=3, stratify="y")


def test_a_stratified_split_has_its_shares_in_each_class_on_any_partitioning(spark, ratings, tmp_path) -> None:
    features = {"features": [Categorical("y", missing="category"), "x"], "keep": ["id"]}
    found = []
    for count in (1, 3, 50):
        rows = ratings.repartition(count, "x" if count == 3 else "id").select(*ratings.columns[::-1])
        dataset = prepared(rows, tmp_path / str(count), STRATIFIED, **features)
        found.append(stored(spark, dataset))
        assert splits_of(ratings, dataset) == found[-1]
    assert found[0] == found[1] == found[2] and len(found[0]) == 1000
    classes = {row["id"]: row["y"] for row in ratings.collect()}
    counts = Counter((classes[number], split) for number, split in found[0].items())
    assert [counts["a", split] for split in HALVES] == [425, 255, 170]
    assert [counts["b", split] for split in HALVES] == [74, 45, 30]
    assert sum(counts[None, split] for split in HALVES) == 1
    # Other rows are divided by the same ends, whichever come along; those of a new class by their hash alone.
    some = ratings.where("id % 3 = 0")
    assert splits_of(some, dataset) == {row: split for row, split in found[0].items() if row % 3 == 0}
    new = splits_of(ratings.selectExpr("id", "'c' as y", "x"), dataset)
    assert set(new.values()) == set(HALVES)
    reopened = sparkdl.open_dataset(dataset.path)
    assert splits_of(ratings, reopened) == found[0] and reopened.rule.ends
    # The same rows are found again.
    assert prepared(rows, tmp_path / "50", STRATIFIED, **features).fingerprint == dataset.fingerprint


def test_a_stratified_split_takes_keys_of_one_class_alone(spark, ratings, tmp_path) -> None:
    rule = Split.fraction(HALVES, key="id", stratify="y")
    dataset = prepared(ratings, tmp_path / "d", rule)
    counts = Counter(row["split"] for row in sparkdl.split(ratings.where("y = 'a'"), dataset).collect())
    assert [counts[split] for split in HALVES] == [425, 255, 170]
    mixed = ratings.selectExpr("id % 100 as id", "y", "x")
    with pytest.raises(ConfigError, match=r"rows of one key, such as \d+, have several values of stratify='y'"):
        prepared(mixed, tmp_path / "e", rule)
    with pytest.raises(ConfigError, match="stratify='x' has more than 1000 values"):
        wide = spark.range(1001).selectExpr("double(id) as x")
        prepared(wide, tmp_path / "e", Split.fraction(HALVES, stratify="x"))
    with pytest.raises(SchemaError, match="column 'z' is not in the DataFrame"):
        prepared(ratings, tmp_path / "e", Split.fraction(HALVES, stratify="z"))


def test_small_and_equal_classes_are_divided_as_nearly_as_they_can(spark, tmp_path) -> None:
    # Equal rows fall into one split; the rows of "few" differ.
    rows = spark.createDataFrame(
        [("equal", 1.0)] * 40 + [("few", float(x)) for x in range(3)] + [("one", 5.0)], "y string, x double"
    )
    rule = Split.fraction({"train": 0.6, "test": 0.4}, stratify="y")
    dataset = prepared(rows, tmp_path / "d", rule)
    counts = Counter((row["y"], row["split"]) for row in sparkdl.split(rows, dataset).collect())
    assert counts["few", "train"] == 2 and counts["few", "test"] == 1 and counts["one", "train"] == 1
    assert sorted(counts[("equal", split)] for split in ("train", "test")) == [0, 40]


def test_a_column_names_the_splits_that_occur(spark, tmp_path) -> None:
    rows = spark.range(30).selectExpr("id", "double(id) as x", "array('test', 'dev', 'train')[id % 3] as part")
    dataset = prepared(rows, tmp_path / "d", Split.column("part"), keep=["id"])
    assert dataset.splits == ("train", "test", "dev")
    assert stored(spark, dataset) == {number: ("test", "dev", "train")[number % 3] for number in range(30)}
    assert splits_of(rows, sparkdl.open_dataset(dataset.path)) == stored(spark, dataset)
    for value, problem in (
        ("'test'", r"column 'part' names the splits \['test'\]; one must be 'train'"),
        ("if(id = 0, 'train', 'fold 1')", "column 'part': split name 'fold 1' must be a word"),
        ("if(id = 0, 'train', concat('x', id))", "column 'part' names more than 20 splits"),
        ("if(id = 0, null, 'train')", "1 rows have no split: in one of them column 'part' is None, which must be one"),
    ):
        with pytest.raises(DatasetError, match=problem):
            prepared(rows.selectExpr("id", "x", f"{value} as part"), tmp_path / "e", Split.column("part"))
    with pytest.raises(DatasetError, match=r"split 'val' is empty \(20 rows in all\); leave it out of names"):
        prepared(rows.where("part != 'dev'"), tmp_path / "e", Split.column("part", ["train", "test", "val"]))
