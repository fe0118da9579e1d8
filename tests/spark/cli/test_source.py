"""The rows of a job: from files, with a schema, of several splits."""

import pytest

from sparkdl import ConfigError
from sparkdl.cli import read_source


@pytest.fixture
def adults(tmp_path):
    """Two files without a header, as the adult table of UCI is."""
    (tmp_path / "adult.data").write_text("39, cook, >50K\n50, ?, <=50K\n")
    (tmp_path / "adult.test").write_text("25, nurse, <=50K.\n")
    return tmp_path


COLUMNS = "age double, job string, income string"
OPTIONS = {"nullValue": "?", "ignoreLeadingWhiteSpace": True}


def test_files_without_a_header_have_a_schema_and_name_their_split(spark, adults) -> None:
    source = {
        "format": "csv",
        "path": {"train": f"{adults}/adult.data", "test": f"{adults}/adult.test"},
        "options": OPTIONS,
        "schema": COLUMNS,
    }
    rows = read_source(spark, source)
    assert rows.schema.simpleString() == "struct<age:double,job:string,income:string,split:string>"
    assert sorted(map(tuple, rows.collect())) == [
        (25.0, "nurse", "<=50K.", "test"),
        (39.0, "cook", ">50K", "train"),
        (50.0, None, "<=50K", "train"),
    ]
    named = read_source(spark, {**source, "split_column": "part"})
    assert named.columns[-1] == "part" and named.where("part = 'test'").count() == 1
    both = read_source(spark, {**source, "path": [f"{adults}/adult.data", f"{adults}/adult.test"]})
    assert both.count() == 3 and "split" not in both.columns


def test_a_source_without_a_path_goes_to_its_format(spark) -> None:
    with pytest.raises(ConfigError, match="source .* cannot be read"):
        read_source(spark, {"format": "jdbc", "options": {"url": "jdbc:nothing:x"}})


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"schema": "age doubble"}, "cannot be read: .*doubble"),
        ({"path": {}}, "path={} must name at least one split"),
        ({"split_column": "part"}, "split_column=… needs a path for each split"),
        ({"path": {"train": "nowhere.csv"}}, "cannot be read"),
        ({"shema": COLUMNS}, "unknown option 'shema'; did you mean 'schema'"),
        ({"options": "header"}, "source: options must hold keys and values"),
        ({"table": "x"}, "source must be module:function"),
    ],
)
def test_a_wrong_source_is_named(spark, adults, wrong, problem) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_source(spark, {"format": "csv", "path": f"{adults}/adult.data", "schema": COLUMNS, **wrong}).count()


def test_files_of_two_splits_have_one_schema(spark, adults) -> None:
    """Spark would make strings of the numbers."""
    path = {"train": f"{adults}/adult.data", "test": f"{adults}/more.data"}
    (adults / "more.data").write_text("x, cook, >50K\n")
    source = {"format": "csv", "path": path, "options": {"inferSchema": True}}
    with pytest.raises(
        ConfigError, match="the files of 'test' have .*_c0.*string.* where those before have .*_c0.*int"
    ):
        read_source(spark, source)


def test_a_column_of_the_splits_name_is_not_hidden(spark, adults) -> None:
    source = {"format": "csv", "path": {"train": f"{adults}/adult.data"}, "schema": "a string, Split string, b string"}
    with pytest.raises(ConfigError, match="the files have a column 'split' already"):
        read_source(spark, source)
