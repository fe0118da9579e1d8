"""Windows of time series: each run of consecutive steps once, whatever the batches, and in the split of its horizon."""

from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

import sparkdl
from paths import DATA
from sparkdl import ConfigError, PrepareConfig, SchemaError, Split
from sparkdl.data.windows.cut import WindowPlan, cut_windows
from sparkdl.features import Numeric

LOADS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]


@pytest.fixture(scope="module")
def stores(spark):
    """Three series of 30, 12 and 3 days, in no order; day 20 of the first is missing."""
    rows = [
        ("abc"[s], date(2024, 1, 1) + timedelta(days), 100 * s + days, float(days) / 2)
        for s, length in enumerate((30, 12, 3))
        for days in range(length)
        if (s, days) != (0, 20)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    return spark.createDataFrame([rows[i] for i in order], "store string, day date, sold int, price double")


def by_definition(rows, past, horizon, every=None):
    """{(key, time of the first step of the horizon): (sold in the past, sold in the horizon)}, cut by hand."""
    found = {}
    for key in {row.store for row in rows}:
        series = sorted((row.day, row.sold) for row in rows if row.store == key)
        for start in range(len(series) - past - horizon + 1):
            window = series[start : start + past + horizon]
            if every is None or window[-1][0] - window[0][0] == every * (past + horizon - 1):
                sold = [s for _, s in window]
                found[key, window[past][0]] = (sold[:past], sold[past:], window[-1][0])
    return found


@pytest.mark.parametrize("every", [None, timedelta(days=1)])
@pytest.mark.parametrize(("past", "horizon"), [(4, 2), (1, 1), (7, 5)])
def test_every_run_of_steps_is_one_window(stores, past, horizon, every) -> None:
    expected = by_definition(stores.collect(), past, horizon, every)
    for rows in (stores, stores.repartition(5).orderBy("price")):
        cut = sparkdl.windows(rows, "store", "day", "sold", past, horizon, every=every)
        assert cut.columns == ["store", "day", "day_last", "past", "horizon"]
        found = cut.collect()
        assert {(r.store, r.day): (r.past, r.horizon, r.day_last) for r in found} == expected
        assert len(found) == len(expected)


def test_several_columns_make_an_axis_and_the_type_that_holds_them_all(stores) -> None:
    cut = sparkdl.windows(
        stores, key=["store"], time="day", columns=["sold", "price"], past=3, horizon=2, target="sold"
    )
    assert dict(cut.dtypes)["past"] == "array<array<double>>" and dict(cut.dtypes)["horizon"] == "array<int>"
    row = cut.where("store = 'b' and day = '2024-01-05'").first()
    assert row.past == [[101.0, 0.5], [102.0, 1.0], [103.0, 1.5]] and row.horizon == [104, 105]


def test_a_horizon_of_none_ends_at_the_newest_step(stores) -> None:
    cut = sparkdl.windows(stores, "store", "day", ["sold"], 4, 0)
    assert cut.columns == ["store", "day", "past"]
    newest = {row.store: row for row in cut.orderBy("day").collect()}
    assert newest["a"].day == date(2024, 1, 30) and newest["a"].past == [[26], [27], [28], [29]]
    assert set(newest) == {"a", "b"}  # the third series is shorter than the past


@pytest.mark.parametrize("type_", ["decimal(8,2)", "float", "smallint", "boolean", "bigint"])
def test_columns_of_every_numeric_type_are_cut(spark, type_) -> None:
    rows = spark.range(6).selectExpr("id as t", f"cast(id % 2 as {type_}) as x")
    cut = sparkdl.windows(rows, None, "t", "x", 2, 1).orderBy("t")
    element = {"decimal(8,2)": "double"}.get(type_, type_)
    assert dict(cut.dtypes)["past"] == f"array<{element}>"
    assert [row.past for row in cut.collect()] == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_a_null_fraction_is_nan_and_prepare_names_it(spark, tmp_path) -> None:
    rows = spark.range(20).selectExpr("id as t", "case when id != 9 then double(id) end as x")
    cut = sparkdl.windows(rows, None, "t", "x", 2, 1)
    assert np.isnan(cut.where("t = 10").first().past).tolist() == [False, True]
    with pytest.raises(SchemaError, match="column 'past': NaN"):
        sparkdl.prepare(cut, PrepareConfig(path=str(tmp_path / "d"), features=[Numeric("past")]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("id % 2 as k; id % 9 as t; id as x", "column 't': '0' comes twice for 'k' 0"),
        ("id % 2 as k; nullif(id, 3) as t; id as x", "column 't': null in a series.*'k' 1"),
        ("nullif(id, 3) % 2 as k; id as t; id as x", "column 'k': null in a series; time '3'"),
        ("id % 2 as k; id as t; nullif(id, 3) as x", "column 'x': null in a series; time '3', 'k' 1"),
    ],
)
def test_rows_that_are_no_series_are_named(spark, tmp_path, rows, message) -> None:
    cut = sparkdl.windows(spark.range(40).selectExpr(*rows.split("; ")), "k", "t", "x", 2, 1)
    with pytest.raises(SchemaError, match=message):
        sparkdl.prepare(cut, PrepareConfig(path=str(tmp_path / "d"), features=["past"]))
    assert not list((tmp_path / "d").rglob("*.*"))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"past": 0}, ConfigError, "past=0 must be a whole number of at least 1"),
        ({"horizon": -1}, ConfigError, "horizon=-1 must be a whole number of at least 0"),
        ({"horizon": 1.5}, ConfigError, "horizon=1.5"),
        ({"columns": []}, ConfigError, "name at least one of each"),
        ({"columns": ["sold", "sold"]}, ConfigError, "must be column names, each once"),
        ({"columns": "solde"}, SchemaError, "column 'solde' is not in the DataFrame; did you mean 'sold'"),
        ({"columns": ["store"]}, SchemaError, "column 'store': values of type 'string' are not numbers"),
        ({"target": "day"}, SchemaError, "column 'day': values of type 'date' are not numbers"),
        ({"time": "store"}, SchemaError, "column 'store': values of type 'string' are not times"),
        ({"key": "price"}, SchemaError, "column 'price': values of type 'double' are not keys"),
        ({"key": "day"}, SchemaError, "two columns of the windows would be named 'day'"),
        ({"every": 1}, ConfigError, "every=1 must be a timedelta of whole days above 0, for a time of type date"),
        ({"every": timedelta(0)}, ConfigError, "must be a timedelta of whole days above 0"),
        ({"every": timedelta(hours=1)}, ConfigError, "must be a timedelta of whole days above 0"),
    ],
)
def test_a_wrong_call_is_refused_before_any_work(stores, options, kind, message) -> None:
    given = {"key": "store", "time": "day", "columns": "sold", "past": 2, "horizon": 1}
    with pytest.raises(kind, match=message):
        sparkdl.windows(stores, **{**given, **options})


def test_names_that_the_result_needs_are_refused(stores) -> None:
    for name in ("past", "Horizon", "day_last"):
        with pytest.raises(SchemaError, match=f"would be named '{name}'"):
            sparkdl.windows(stores.withColumnRenamed("store", name), name, "day", "sold", 2, 1)
    twice = stores.select("*", "sold")
    with pytest.raises(SchemaError, match="column 'sold' is 2 times in the DataFrame"):
        sparkdl.windows(twice, "store", "day", "sold", 2, 1)


def test_columns_of_any_name_are_cut(spark) -> None:
    names = ["a.b", "c d", "e`f", "größe", "rows"]
    rows = spark.createDataFrame([(i % 2, i, f"k{i % 2}", float(i), i) for i in range(20)], names)
    cut = sparkdl.windows(rows, ["a.b", "e`f"], "c d", ["größe", "rows"], 2, 1)
    assert cut.columns == ["a.b", "e`f", "c d", "c d_last", "past", "horizon"]
    first = next(row for row in cut.collect() if row["c d"] == 5)
    assert (first["e`f"], first.past, first.horizon) == ("k1", [[1, 1], [3, 3]], [[5, 5]])


def one_series(rows: int, past: int, horizon: int) -> tuple[pa.Table, WindowPlan]:
    table = pa.table({"t": np.arange(rows), "x": np.arange(rows, dtype=float)})
    float_ = np.dtype(float)
    of_x = {"columns": ("x",), "columns_dtype": float_, "columns_bare": True}
    of_y = {"targets": ("x",), "targets_dtype": float_, "targets_bare": True}
    return table, WindowPlan(key=(), time="t", past=past, horizon=horizon, every=None, **of_x, **of_y)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("past", "horizon"), [(1, 0), (1, 1), (3, 2), (60, 20)])
def test_batches_do_not_show(size, past, horizon) -> None:
    table, plan = one_series(50, past, horizon)
    cut = pa.Table.from_batches(list(cut_windows(table.to_batches(size), plan))) if past + horizon <= 50 else None
    if cut is None:
        assert list(cut_windows(table.to_batches(size), plan)) == []
        return
    first = range(past - (horizon == 0), 50 - max(0, horizon - 1))
    assert cut["t"].to_pylist() == list(first)
    assert [w[0] for w in cut["past"].to_pylist()] == list(range(50 - past - horizon + 1))


def test_a_time_that_comes_twice_is_seen_across_batches() -> None:
    table, plan = one_series(5, 1, 0)
    with pytest.raises(SchemaError, match="column 't': '4' comes twice"):
        list(cut_windows([*table.to_batches(), *table.slice(4).to_batches()], plan))


def test_one_long_series_comes_in_small_batches() -> None:
    table, plan = one_series(1_000_000, 200, 56)
    largest, windows = 0, 0
    for batch in cut_windows(table.to_batches(100_000), plan):
        largest, windows = max(largest, batch.nbytes), windows + batch.num_rows
    assert windows == 1_000_000 - 255 and largest < 17 << 20


@pytest.mark.skipif(not (DATA / "ETTh1.csv").exists(), reason=f"no ETTh1.csv in {DATA}")
def test_the_standard_split_of_etth1_gives_its_standard_counts(spark, tmp_path) -> None:
    raw = spark.read.csv(str(DATA / "ETTh1.csv"), header=True)
    rows = raw.selectExpr("cast(date as timestamp_ntz) as date", *[f"double({name}) as {name}" for name in LOADS])
    cut = sparkdl.windows(rows, key=None, time="date", columns=LOADS, past=96, horizon=96).cache()
    start = datetime(2016, 7, 1)
    borders = {"train": 8640, "val": 11520, "test": 14400}
    rule = Split.time("date", {n: start + timedelta(hours=h) for n, h in borders.items()}, last="date_last")
    config = PrepareConfig(
        path=str(tmp_path / "d"), features=[Numeric("past")], label=Numeric("horizon"), splits=rule, lanes=64
    )
    dataset = sparkdl.prepare(cut, config)
    expected = {"train": 8449, "val": 2785, "test": 2785}
    assert {name: dataset.split(name).rows for name in dataset.splits} == expected
    assert dataset.features["past"].shape == dataset.labels["horizon"].shape == (96, 7)
    told = sparkdl.split(cut.select("date", "date_last"), dataset).groupBy("split").count().collect()
    assert {row["split"]: row["count"] for row in told if row["split"]} == expected
    # The first window of val: its past lies in train, its horizon begins where val does.
    first = cut.where(f"date = timestamp_ntz'{start + timedelta(hours=8640)}'").first()
    values = [[row[name] for name in LOADS] for row in rows.orderBy("date").limit(8736).collect()]
    assert first.past == values[8544:8640] and first.horizon == values[8640:8736]
    cut.unpersist()
