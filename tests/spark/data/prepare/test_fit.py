"""Fitting in Spark: the statistics of the train split, whatever its partitions, and no row on the driver."""

import datetime as dt
import decimal
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from paths import DATA
from sparkdl import ConfigError, SchemaError
from sparkdl.data.prepare import statistics
from sparkdl.data.prepare.fit import fit_encoders
from sparkdl.features import Categorical, Image, Numeric, Tensor, Text
from sparkdl.spark.errors import errors_from_workers

START = dt.datetime(2020, 1, 1)
# Ties in both vocabularies, a word in several cases, and values that differ in their bytes alone.
TOWNS = ["Ulm", "ulm", "Köln", "Zürich", "", "Köln", "Ulm", "a b"]
REVIEWS = ["Good, good food!", "bad FOOD", None, "", "good -- Bad?", "the the soup"]


def people(count: int) -> list[tuple]:
    rng = np.random.default_rng(5)
    rows = []
    for i in range(count):
        age = None if i % 11 == 3 else float("nan") if i % 13 == 5 else float(np.round(rng.normal(40, 12), 1))
        pair = None if i % 17 == 4 else [float(rng.normal(1e6, 1)), None if i % 5 == 1 else float(i % 7)]
        rows.append(
            (
                age,
                pair,
                decimal.Decimal(int(rng.integers(-(10**6), 10**6))).scaleb(-2),
                dt.date(2020, 1, 1) + dt.timedelta(days=int(rng.integers(0, 1000))),
                START + dt.timedelta(microseconds=int(rng.integers(0, 10**15))),
                TOWNS[i % len(TOWNS)],
                int(rng.integers(-3, 4)),
                bool(i % 3),
                REVIEWS[i % len(REVIEWS)],
            )
        )
    return rows


SCHEMA = (
    "age double, pair array<double>, price decimal(12,2), day date, time timestamp_ntz, town string, code short, "
    "flag boolean, review string"
)
ROWS = people(997)


@pytest.fixture(scope="module")
def raw(spark):
    return spark.createDataFrame(ROWS, SCHEMA).cache()


def known(place: int) -> np.ndarray:
    """The values of a column that are not missing, as numbers."""
    values = [row[place] for row in ROWS if row[place] is not None and row[place] == row[place]]
    if isinstance(values[0], dt.datetime):
        values = [(value - dt.datetime(1970, 1, 1)).total_seconds() for value in values]
    elif isinstance(values[0], dt.date):
        values = [(value - dt.date(1970, 1, 1)).days for value in values]
    return np.array(values, np.float64)


def check(encoder, values: np.ndarray) -> None:
    assert encoder.mean == pytest.approx(values.mean(), rel=1e-12) and encoder.std == pytest.approx(
        values.std(), rel=1e-9
    )
    assert (encoder.low, encoder.high) == (values.min(), values.max())


@pytest.mark.parametrize("partitions", [1, 2, 9])
def test_statistics_are_those_of_all_rows_in_any_partitions(raw, partitions: int) -> None:
    rows = raw.coalesce(1) if partitions == 1 else raw.repartition(partitions)
    numbers = ["age", "price", "day", "time"]
    features = [Numeric(name, fill="median") for name in numbers]
    features += [Numeric("pair", fill="median"), Categorical("town", max_size=4), Categorical("code")]
    features += [Text("review", length=3, max_size=3, fill="")]
    fitted = fit_encoders(rows, features, [Categorical("flag"), Categorical("town")]).encoders
    for place, (name, encoder) in enumerate(zip(numbers, fitted, strict=False)):
        values = known(["age", "pair", "price", "day", "time"].index(name))
        check(encoder, values)
        assert encoder.fill == np.median(values), place
    for position in (0, 1):
        values = np.array([row[1][position] for row in ROWS if row[1] is not None and row[1][position] is not None])
        pair = fitted[4]
        assert pair.mean[position] == pytest.approx(values.mean(), rel=1e-12)
        assert pair.std[position] == pytest.approx(values.std(), rel=1e-7)
        assert (pair.low[position], pair.high[position]) == (values.min(), values.max())
        assert pair.fill[position] == np.median(values)
    towns = sorted(Counter(row[5] for row in ROWS).items(), key=lambda pair: (-pair[1], pair[0]))
    assert list(fitted[5].vocabulary) == [town for town, _ in towns][:4]
    codes = sorted(Counter(row[6] for row in ROWS).items(), key=lambda pair: (-pair[1], pair[0]))
    assert list(fitted[6].vocabulary) == [code for code, _ in codes]
    words = Counter()
    for row in ROWS:
        words.update("".join(c if c.isalnum() else " " for c in (row[8] or "").lower()).split())
    assert list(fitted[7].vocabulary) == [w for w, _ in sorted(words.items(), key=lambda p: (-p[1], p[0]))][:3]
    assert fitted[8].vocabulary == (0, 1) and list(fitted[9].vocabulary) == sorted({row[5] for row in ROWS})


def test_what_spark_sends_is_encoded_as_python_values_are(raw) -> None:
    """The bits for Spark's columns are those for the same Python values without Spark."""
    features = [Numeric("age", fill="indicator"), Numeric("pair", fill="mean"), "price", "day", "time"]
    features = [Tensor(f) if isinstance(f, str) else f for f in features]
    features += [Categorical("town"), Categorical("flag"), Text("review", length=4, fill="")]
    encoders = fit_encoders(raw, features, []).encoders
    shapes = [(encoder.dtype.name, encoder.shape) for encoder in encoders]
    assert shapes[:5] == [("float32", (2,)), ("float32", (2,)), ("float32", ()), ("int32", ()), ("float64", ())]

    def encode(batches):
        for batch in batches:
            values = [e.encode(batch.column(batch.schema.get_field_index(e.name))).tobytes() for e in encoders]
            yield pa.RecordBatch.from_arrays([pa.array([v], pa.binary()) for v in values], names=names)

    names = [f"c{i}" for i in range(len(encoders))]
    found = raw.coalesce(1).mapInArrow(encode, ", ".join(f"{name} binary" for name in names)).collect()
    columns = ["age", "pair", "price", "day", "time", "town", "code", "flag", "review"]
    for name, encoder in zip(names, encoders, strict=True):
        place = columns.index(encoder.name)
        assert b"".join(bytes(row[name]) for row in found) == encoder.encode([row[place] for row in ROWS]).tobytes()


def test_only_statistics_reach_the_driver(spark, monkeypatch) -> None:
    """What `collect` brings does not grow with the rows: 300 or 30,000 give as many and as large results."""
    frame = type(spark.range(1))
    collected: list[int] = []
    collect = frame.collect

    def watched(self):
        rows = collect(self)
        collected.extend(len(str(row)) for row in rows)
        return rows

    monkeypatch.setattr(frame, "collect", watched)
    sizes = []
    for count in (300, 30_000):
        collected.clear()
        rows = spark.range(0, count, 1, 2).selectExpr(
            "double(id % 97) AS x",
            "array(double(id % 7), null) AS y",
            "concat('w', id % 9, ' and') AS t",
            "id % 5 AS c",
        )
        rows = rows.selectExpr("x", "transform(y, v -> coalesce(v, 1.0)) AS y", "t", "c")
        features = [Numeric("x", fill="median"), Numeric("y", fill="median"), Text("t", length=2), Categorical("c")]
        fit_encoders(rows, features, [])
        sizes.append((len(collected), sum(collected)))
    assert sizes[0][0] == sizes[1][0] > 0 and sizes[1][1] < sizes[0][1] * 1.2


@pytest.mark.parametrize(
    ("feature", "problem"),
    [
        (Categorical("day"), "'day': values of type date32.* cannot be categories; make a string"),
        (Categorical("age"), "'age': values of type double cannot be categories; cast them to strings"),
        (Text("code", length=2), "'code': values of type int16 are not text; cast"),
        (Text("review", length=2), "'review': null without a policy .*row 2 is None"),
        (Image("town", height=2, width=2), "'town': values of type string are not images"),
        (Numeric("town"), "'town': values of type string are not numbers; strings need an encoder: Categorical or"),
        (Numeric("age"), "'age': null without a policy"),
        (Numeric("pair", fill="indicator"), "'pair': fill='indicator' is for scalars"),
        (Tensor("parts"), "'parts': values of type map<.*> are not numbers; select what is needed"),
        (Numeric("both", fill=0), "'both': values of type struct<.*> are not numbers; select what is needed"),
        (Numeric("void", fill=0), "'void': the train split has no value that is not null"),
    ],
)
def test_a_column_that_does_not_fit_is_named_with_the_way_out(raw, feature, problem: str) -> None:
    rows = raw.coalesce(1).selectExpr(
        "*", "map('a', 1) AS parts", "struct(age, code) AS both", "cast(null AS double) AS void"
    )
    with pytest.raises(SchemaError, match=problem), errors_from_workers():
        fit_encoders(rows, [feature], [])


def test_an_array_column_may_begin_with_null(spark) -> None:
    rows = spark.createDataFrame([(None,), ([1.0, 2.0],), ([3.0, None],)], "x array<double>").coalesce(1)
    (encoder,) = fit_encoders(rows, [Numeric("x", fill="mean")], []).encoders
    assert encoder.mean == (2.0, 2.0) and encoder.shape == (2,)


def test_ids_are_no_vocabulary(spark, monkeypatch) -> None:
    from sparkdl.data.prepare import fit

    monkeypatch.setattr(statistics, "VOCABULARY_LIMIT", 10)
    monkeypatch.setattr(fit, "VOCABULARY_LIMIT", 10)
    with pytest.raises(SchemaError, match="'id' has more than 10 values in the train split; is it an id"):
        fit_encoders(spark.range(11), [Categorical("id")], [])
    assert fit_encoders(spark.range(10), [Categorical("id")], []).encoders[0].vocabulary == tuple(range(10))


@pytest.mark.parametrize(
    "label", [Numeric("x", fill="indicator"), Image("x", height=2, width=2, store="encoded")], ids=lambda f: f.kind
)
def test_a_label_is_one_value_and_stored(spark, label) -> None:
    with pytest.raises(ConfigError, match="label 'x'"):
        fit_encoders(spark.range(2), [], [label])


def test_images_of_files_and_of_sparks_own_source(spark, tmp_path) -> None:
    """A PNG read as bytes and as Spark's image struct gives the same pixels, which are those that were saved."""
    from PIL import Image as Pillow

    rng = np.random.default_rng(1)
    pixels = {f"{i}.png": rng.integers(0, 256, (5, 4, 3)).astype(np.uint8) for i in range(3)}
    for name, values in pixels.items():
        Pillow.fromarray(values).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    files = spark.read.format("binaryFile").load(str(tmp_path)).selectExpr("path", "content AS image")
    structs = spark.read.format("image").load(str(tmp_path)).selectExpr("image.origin AS path", "image")
    for rows in (files, structs):
        for store in ("pixels", "encoded"):
            (encoder,) = fit_encoders(rows, [Image("image", height=5, width=4, fill=7, store=store)], []).encoders
            found = {Path(row.path).name: row.image for row in rows.collect()}
            assert set(pixels) < set(found)
            for name, image in found.items():
                raw = image.asDict() if hasattr(image, "asDict") else bytes(image)
                wanted = pixels.get(name, np.full((5, 4, 3), 7))
                assert (encoder.encode([raw])[0] == wanted).all()
                assert (encoder.encode(encoder.to_bytes([raw]))[0] == wanted).all()


def test_housing_with_missing_bedrooms(spark) -> None:
    if not (DATA / "housing.csv").exists():
        pytest.skip(f"no {DATA / 'housing.csv'}")
    rows = spark.read.csv(str(DATA / "housing.csv"), header=True, inferSchema=True)
    features = [
        Numeric("total_bedrooms", fill="median"),
        Numeric("median_income", scale="minmax"),
        Categorical("ocean_proximity"),
    ]
    bedrooms, income, ocean = fit_encoders(rows, features, []).encoders
    (indicator,) = fit_encoders(rows, [Numeric("total_bedrooms", fill="indicator")], []).encoders
    table = rows.select("total_bedrooms", "median_income", "ocean_proximity").toPandas()
    values = table["total_bedrooms"].dropna()
    assert len(table) - len(values) == 207
    check(bedrooms, values.to_numpy())
    assert bedrooms.fill == np.median(values)
    counts = sorted(Counter(table["ocean_proximity"]).items(), key=lambda pair: (-pair[1], pair[0]))
    assert list(ocean.vocabulary) == [value for value, _ in counts]
    encoded = indicator.encode(pa.array(table["total_bedrooms"]))
    assert encoded[:, 1].sum() == 207 and not encoded[encoded[:, 1] == 1, 0].any()
    assert ocean.encode(table["ocean_proximity"].astype("category")).min() == 1
    assert income.encode(table["median_income"]).max() == 1.0


def test_moments_are_utc_in_any_session_and_clocks_stay_clocks(spark) -> None:
    rows = spark.sql("SELECT timestamp_micros(0) AS moment, timestamp_ntz'1970-01-01 00:00:00' AS clock")
    zone = spark.conf.get("spark.sql.session.timeZone")
    try:
        spark.conf.set("spark.sql.session.timeZone", "America/New_York")
        moment, clock = fit_encoders(rows, [Numeric("moment"), Numeric("clock")], []).encoders
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    assert (moment.mean, moment.unit) == (0.0, "seconds") and (clock.mean, clock.unit) == (0.0, "local seconds")
