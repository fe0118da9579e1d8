"""Bad inputs: each is an error of its own kind, in one short line that names the column, and nothing is left behind."""

from datetime import datetime
from pathlib import Path

import pytest

import sparkdl
from sparkdl import ConfigError, DatasetError, PrepareConfig, SchemaError, Split
from sparkdl.features import Categorical, Numeric, Tensor

LONG = "x" * 5000


@pytest.fixture(scope="module")
def rows(spark):
    """100 rows with one bad row, the 51st, in each of the columns whose names say so."""
    good = "double(id)"
    return spark.range(100).selectExpr(
        "id",
        f"{good} as x",
        "int(id % 2) as y",
        "'a' as one_class",
        "concat('c', if(id = 50, 9, id % 2)) as late_class",
        f"if(id = 50, null, {good}) as with_null",
        f"if(id = 50, double('NaN'), {good}) as with_nan",
        f"if(id = 50, double('Infinity'), {good}) as with_inf",
        f"if(id = 50, -1, {good}) as with_negative",
        f"if(id = 50, array({good}), array({good}, 0D)) as ragged",
        f"if(id = 50, array({good}, null), array({good}, 0D)) as null_inside",
        "concat('t', id) as text",
        f"concat('{LONG}', id) as long_text",
        "cast(null as double) as all_null",
        "map('a', id) as mapped",
        "named_struct('a', id) as structured",
        "interval '1' day as span",
        "if(id = 50, 'dev', 'train') as part",
        f"if(id = 50, '{LONG}', 'train') as long_part",
        "if(id = 50, null, id) as gappy_time",
        "id as __split__",
    )


HALVES = {"train": 0.5, "test": 0.5}
LATE = Split.time("id", {"train": 50, "test": None})

BAD = {
    # case: (options of PrepareConfig, kind of error, what its message says)
    "missing column": ({"features": ["with_nul"]}, SchemaError, "'with_nul' is not in.*did you mean 'with_null'"),
    "missing label": ({"label": "z"}, SchemaError, "column 'z' is not in the DataFrame"),
    "missing weight": ({"weight": "z"}, SchemaError, "column 'z' is not in the DataFrame"),
    "missing kept column": ({"keep": ["z"]}, SchemaError, "column 'z' is not in the DataFrame"),
    "missing key": ({"splits": Split.fraction(HALVES, key="z")}, SchemaError, "column 'z' is not in the DataFrame"),
    "missing time": ({"splits": Split.time("z", {"train": 1})}, SchemaError, "column 'z' is not in the DataFrame"),
    "missing split column": ({"splits": Split.column("z")}, SchemaError, "column 'z' is not in the DataFrame"),
    "reserved name": ({"keep": ["__split__"]}, SchemaError, "'__split__' is used by sparkdl itself"),
    "text without encoder": ({"features": ["text"]}, SchemaError, "column 'text'.*strings need an encoder"),
    "map": ({"features": ["mapped"]}, SchemaError, "column 'mapped'"),
    "struct": ({"features": ["structured"]}, SchemaError, "column 'structured'"),
    "interval": ({"features": ["span"]}, SchemaError, "column 'span'"),
    "text as number": ({"features": [Numeric("text")]}, SchemaError, "column 'text'"),
    "text as number with fill": ({"features": [Numeric("long_text", fill=0.0)]}, SchemaError, "column 'long_text'"),
    "fraction as category": ({"features": [Categorical("x")]}, SchemaError, "column 'x'.*cannot be categories"),
    "array as category": ({"features": [Categorical("ragged")]}, SchemaError, "column 'ragged'.*cannot be categories"),
    "ragged array": ({"features": ["ragged"]}, SchemaError, r"column 'ragged'.*\[50.0\]"),
    "null inside an array": ({"features": ["null_inside"]}, SchemaError, "column 'null_inside'.*null inside"),
    "wrong shape": ({"features": [Tensor("x", shape=(2,))]}, SchemaError, "column 'x'.*declared shape"),
    "null": ({"features": ["with_null"]}, SchemaError, "column 'with_null'.*null without a policy.*is None"),
    "null, numeric": ({"features": [Numeric("with_null")]}, SchemaError, "column 'with_null'.*null without a policy"),
    "NaN, numeric": ({"features": [Numeric("with_nan")]}, SchemaError, "column 'with_nan'.*NaN without a policy"),
    "infinity": ({"features": [Numeric("with_inf")]}, SchemaError, "column 'with_inf'.*infinite value"),
    "nothing but nulls": ({"features": [Numeric("all_null", fill="mean")]}, SchemaError, "'all_null'.*not null"),
    "null weight": ({"weight": "with_null"}, SchemaError, "column 'with_null'.*null"),
    "NaN weight": ({"weight": "with_nan"}, SchemaError, "column 'with_nan'.*weight is not a finite number"),
    "negative weight": ({"weight": "with_negative"}, SchemaError, "column 'with_negative'.*row .* is -1.0"),
    "text weight": ({"weight": "text"}, SchemaError, "column 'text'"),
    "one class": ({"label": Categorical("one_class")}, SchemaError, "label 'one_class' has 1 class"),
    "label unseen in train": (
        {"label": Categorical("late_class"), "splits": LATE},
        SchemaError,
        "column 'late_class'.*not among the .* classes kept from the train split.*'c9'",
    ),
    "null label": ({"label": "with_null"}, SchemaError, "column 'with_null'.*null without a policy"),
    "empty split": (
        {"splits": Split.fraction({"train": 1 - 1e-9, "val": 1e-9})},
        DatasetError,
        "split 'val' is empty",
    ),
    "empty time split": ({"splits": Split.time("id", {"train": 99.2, "test": 99.5})}, DatasetError, "'test' is empty"),
    "all after the end": ({"splits": Split.time("id", {"train": -5})}, DatasetError, "split 'train' is empty"),
    "unknown split": (
        {"splits": Split.column("part", ["train", "val", "test"])},
        DatasetError,
        "1 rows have no split.*'part' is 'dev'",
    ),
    "long unknown split": (
        {"splits": Split.column("long_part", ["train", "val", "test"])},
        DatasetError,
        "'long_part' is 'x.*…",
    ),
    "a text as split": ({"splits": Split.column("long_part")}, DatasetError, "column 'long_part'.* at most 64 letters"),
    "row without a time": ({"splits": Split.time("gappy_time", {"train": None})}, DatasetError, "'gappy_time' is None"),
    "time of another type": (
        {"splits": Split.time("id", {"train": datetime(2024, 1, 1)})},
        SchemaError,
        "column 'id' is bigint",
    ),
    "text as time": ({"splits": Split.time("text", {"train": "2024-01-01"})}, SchemaError, "column 'text' is 'string'"),
    "map as key": ({"splits": Split.fraction(HALVES, key="mapped")}, SchemaError, "column 'mapped'"),
}


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() or path.name.startswith("generation")]


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error_of_its_kind_and_leaves_nothing(rows, tmp_path, case) -> None:
    options, kind, message = BAD[case]
    with pytest.raises(kind, match=message) as caught:
        sparkdl.prepare(rows, PrepareConfig(path=str(tmp_path / "d"), **{"features": ["x"], **options}))
    assert type(caught.value) is kind
    assert len(str(caught.value)) <= 400 and "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


REFUSED = {
    # case: (options of PrepareConfig, what the message says); refused without a DataFrame
    "no features": (lambda: {"features": []}, "features="),
    "the same feature twice": (lambda: {"features": ["x", "x"]}, "'x'.*twice"),
    "the same kept column twice": (lambda: {"keep": ["x", "x"]}, "'x'.*twice"),
    "no splits at all": (lambda: {"splits": {"train": 1.0}}, "must be made by Split"),
    "a time split without train": (lambda: {"splits": Split.time("id", {"test": 1})}, "must name a split 'train'"),
    "unordered time split": (lambda: {"splits": Split.time("id", {"train": 2, "test": 1})}, "must end after"),
    "shares above 1": (lambda: {"splits": Split.fraction({"train": 0.9, "test": 0.9})}, "sum to 1"),
    "unknown scale": (lambda: {"features": [Numeric("x", scale=LONG)]}, "Numeric.'x'.*scale=.*…"),
    "no column name": (lambda: {"weight": 7}, "weight=7"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_declaration_is_refused_before_there_is_data(tmp_path, case) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as caught:
        PrepareConfig(path=str(tmp_path / "d"), **{"features": ["x"], **options()})
    assert len(str(caught.value)) <= 400


def test_a_missing_column_of_a_wide_table_is_named_in_a_short_message(spark, tmp_path) -> None:
    wide = spark.range(1).selectExpr(*[f"id as a_column_with_number_{place}" for place in range(300)])
    with pytest.raises(SchemaError, match="column 'zzz' is not in the DataFrame; known: .*…") as caught:
        sparkdl.prepare(wide, PrepareConfig(path=str(tmp_path / "d"), features=["zzz"]))
    assert len(str(caught.value)) <= 400


def test_rows_that_are_none_and_columns_of_one_name_are_refused(rows, tmp_path) -> None:
    config = PrepareConfig(path=str(tmp_path / "d"), features=["x"], splits=Split.fraction(HALVES))
    with pytest.raises(DatasetError, match="has no rows"):
        sparkdl.prepare(rows.where("id < 0"), config)
    with pytest.raises(SchemaError, match="column 'x' is 2 times in the DataFrame"):
        sparkdl.prepare(rows.select("x", "x"), config)
    with pytest.raises(SchemaError, match="column 'x' and 'X' are one name to Spark"):
        sparkdl.prepare(rows.selectExpr("x", "x as X"), config)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("file", DatasetError, "file"),
        ("file/below", DatasetError, "file"),
        ("strange", DatasetError, "holds 'notes.txt', which is not part of a dataset"),
        ("/proc/nothing", DatasetError, "/proc/nothing cannot be written"),
    ],
)
def test_a_path_that_cannot_hold_a_dataset_is_refused_and_left_as_it_was(rows, tmp_path, path, kind, message) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind, match=message) as caught:
        sparkdl.prepare(rows, PrepareConfig(path=str(tmp_path / path), features=["x"]))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("path", ["", "memory://d", "s3:/bucket/d", None])
def test_a_path_that_is_none_is_refused(rows, path) -> None:
    with pytest.raises(ConfigError):
        sparkdl.prepare(rows, PrepareConfig(path=path, features=["x"]))
