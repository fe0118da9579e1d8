"""Split rules as values: what they take, what they refuse, how they are stored."""

import dataclasses
import json
from datetime import date, datetime, timedelta, timezone

import pandas as pd
import pytest

from sparkdl import ConfigError, Split
from sparkdl.data.prepare.splits.apply import same_values

ENDS = {"train": "2017-06-26", "val": "2017-10-24", "test": None}


@pytest.mark.parametrize(
    "rule",
    [
        Split.fraction({"train": 0.9, "val": 0.1}, seed=3, key=["a", "b"]),
        Split.time("date", ENDS, last="date_last"),
        Split.time("step", {"train": 8640, "test": 11520.5}),
        Split.column("part"),
        Split.fraction({"train": 0.9, "val": 0.1}, stratify="y"),
        dataclasses.replace(
            Split.fraction({"train": 0.9, "val": 0.1}, stratify="y"), ends=((None, (2**53,)), ("a", (7,)))
        ),
    ],
)
def test_a_rule_survives_json(rule) -> None:
    assert Split.from_json(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"fraction": {"train": 0.8, "test": 0.2}, "seed": 7, "key": "id"},
            Split.fraction({"train": 0.8, "test": 0.2}, seed=7, key="id"),
        ),
        ({"time": "date", "until": {"train": date(2017, 6, 26)}}, Split.time("date", {"train": "2017-06-26"})),
        ({"time": "date", "until": ENDS, "last": "date_last"}, Split.time("date", ENDS, last="date_last")),
        (
            {"fraction": {"train": 0.8, "test": 0.2}, "stratify": "y"},
            Split.fraction({"train": 0.8, "test": 0.2}, stratify="y"),
        ),
        ({"column": "part"}, Split.column("part")),
        ({"column": "part", "names": ["train", "dev"]}, Split.column("part", ["train", "dev"])),
    ],
)
def test_yaml_writes_what_python_writes(options, rule) -> None:
    assert Split.from_mapping(options) == rule


@pytest.mark.parametrize(
    "end",
    [
        "2017-06-26",
        "2017-06-26T00:00:00Z",
        "2017-06-26 02:00:00+02:00",
        date(2017, 6, 26),
        datetime(2017, 6, 26),
        datetime(2017, 6, 26, 2, tzinfo=timezone(timedelta(hours=2))),
        pd.Timestamp("2017-06-26"),
    ],
)
def test_every_way_to_write_a_time_means_the_same(end) -> None:
    assert Split.time("date", {"train": end}).until == ("2017-06-26T00:00:00.000000",)


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ({"val": "2017-01-01"}, "must name a split 'train'"),
        (["train"], "must name a split 'train'"),
        ({"train": "2017-02-01", "test": "2017-01-01"}, "must end after the one before"),
        ({"train": "2017-02-01", "test": "2017-02-01T00:00:00Z"}, "must end after the one before"),
        ({"train": 5, "test": 5}, "must end after the one before"),
        ({"train": None, "test": "2017-01-01"}, "only the last split may have no end"),
        ({"train": 5, "test": "2017-01-01"}, "mixes times and numbers"),
        ({"train": "soon"}, "the end of 'train' is 'soon'"),
        ({"train": float("nan")}, "the end of 'train' is nan"),
        ({"train": True}, "the end of 'train' is True"),
        ({"train": pd.NaT}, "the end of 'train' is NaT"),
        ({"train": 2**63}, "the end of 'train' is 9223372036854775808"),
        ({"train": 1, "t e s t": 2}, "split name 't e s t' must be a word"),
    ],
)
def test_ends_that_are_no_order_of_times_are_refused(until, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Split.time("date", until)
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Split.fraction({"train": True, "val": 0.5}), "shares must be above 0"),
        (lambda: Split.fraction({"train": "0.5", "val": 0.5}), "shares must be above 0"),
        (lambda: Split.fraction({"train": float("nan"), "val": 0.5}), "shares must be above 0"),
        (lambda: Split.fraction({"train": 1.0}, seed=1.5), "seed=1.5 must be a whole number"),
        (lambda: Split.fraction({"train": 1.0}, key=[3]), "key=3 must be the name of a column"),
        (lambda: Split.time("", {"train": 1}), "column='' must be the name of a column"),
        (lambda: Split.time("t", {"train": 1}, last=4), "last=4 must be the name of a column"),
        (lambda: Split.column("part", "train"), "must name a split 'train'"),
        (lambda: Split.column("part", ["train", "val", "val"]), "'val' is there twice"),
        (lambda: Split.from_mapping({"time": "date"}), "must have 'until'"),
        (lambda: Split.from_mapping({"time": "date", "untill": {}}), "unknown option 'untill'.*did you mean 'until'"),
        (lambda: Split.from_mapping({"time": "date", "column": "part"}), "must have one of: fraction, time, column"),
    ],
)
def test_a_wrong_rule_is_a_config_error(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("double", "float"),
        ("array<double>", "array<float>"),
        ("double", "int"),
        ("int", "double"),
        ("decimal(9,2)", "decimal(9,3)"),
        ("decimal(9,2)", "double"),
        ("timestamp", "timestamp_ntz"),
        ("timestamp", "date"),
        ("string", "binary"),
        ("string", "bigint"),
        ("boolean", "tinyint"),
        ("struct<a:float>", "struct<a:double>"),
        ("struct<a:int>", "struct<a:bigint>"),
    ],
)
def test_a_type_that_does_not_keep_every_value_is_another_type(before, now) -> None:
    assert same_values(before, before) and same_values(now, now) and not same_values(before, now)
