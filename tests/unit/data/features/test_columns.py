"""Values that numpy and pandas call missing are nulls: an encoder fills them or refuses them, as Arrow's nulls."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparkdl import SchemaError
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.columns import as_array, to_arrow
from sparkdl.data.features.moments import Moments
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import TextEncoder
from sparkdl.features import Numeric, Tensor

masked = np.ma.masked_array


def objects(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (masked([1.0, 2.0], mask=[0, 1]), [1.0, None]),
        (masked([1, 2], mask=[0, 1]), [1, None]),
        (masked([True, False], mask=[0, 1]), [True, None]),
        (masked(np.array([1, 2], np.uint8), mask=[0, 1]), [1, None]),
        (masked(np.array([1, 2], np.float16), mask=[0, 1]), [1.0, None]),
        (masked(["a", "b"], mask=[0, 1]), ["a", None]),
        (masked(objects("a", "b"), mask=[0, 1]), ["a", None]),
        (masked([1.0, 2.0], mask=True), [None, None]),
        (masked([1.0, 2.0]), [1.0, 2.0]),
        (masked([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]]), [[1.0, None], [3.0, 4.0]]),
        (masked(np.arange(4.0).reshape(1, 2, 2), mask=[[[1, 0], [0, 1]]]), [[[None, 1.0], [2.0, None]]]),
        (masked(np.array([["2020-01-01", "2020-01-02"]], "datetime64[D]"), mask=[[0, 1]]), [["2020-01-01", None]]),
        ([1.0, np.ma.masked], [1.0, None]),
        ([masked([1.0, 2.0], mask=[0, 1]), masked([3.0, 4.0])], [[1.0, None], [3.0, 4.0]]),
        (objects(masked([1.0, 2.0], mask=[0, 1]), [3.0, 4.0]), [[1.0, None], [3.0, 4.0]]),
        (pd.Series(objects(masked([1.0, 2.0], mask=[0, 1]), None)), [[1.0, None], None]),
        ([1.0, pd.NA], [1.0, None]),
        (objects(1.0, pd.NA), [1.0, None]),
        ([datetime.date(2020, 1, 1), pd.NaT], ["2020-01-01", None]),
        (np.array(["2020-01-01", "NaT"], "datetime64[D]"), ["2020-01-01", None]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series([1, None], dtype=pd.ArrowDtype(pa.int64())), [1, None]),
        (pd.array([True, None], dtype="boolean"), [True, None]),
        (np.array([[1.0, None], [2.0, 3.0]], dtype=object), [[1.0, None], [2.0, 3.0]]),
        ([[1.0, None], None], [[1.0, None], None]),
    ],
    ids=repr,
)
def test_missing_values_are_nulls_at_any_depth(column, values) -> None:
    def plain(value):
        if isinstance(value, list):
            return [plain(part) for part in value]
        return value.isoformat() if isinstance(value, datetime.date) else value

    assert plain(as_array(column).to_pylist()) == values


@pytest.mark.parametrize(
    "column",
    [
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
        masked(np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), mask=[(1, 0)]),
        np.array(["2020-01-01"], "datetime64[h]"),
        [1.0, "a"],
    ],
    ids=repr,
)
def test_what_arrow_cannot_hold_is_refused_with_an_error_of_ours(column) -> None:
    with pytest.raises(SchemaError, match="no Arrow column can be made of (ndarray|MaskedArray|list) of"):
        as_array(column)


def test_moments_with_and_without_a_time_zone_are_not_one_column() -> None:
    naive = datetime.datetime(2024, 1, 1, 12)
    aware = naive.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=5)))
    assert as_array([aware, None]).to_pylist()[0] == aware and as_array([naive, None]).to_pylist()[0] == naive
    for values in ([naive, aware], [None, aware, naive], objects(naive, aware)):
        with pytest.raises(SchemaError, match="1 of 2 datetimes have a time zone and the others have none; give all"):
            as_array(values)


def numeric(fill):
    moments = Moments.of(np.array([1.0, 3.0]), ())
    return NumericEncoder.fit(Numeric("x", scale="none", fill=fill), moments)


def test_encoders_fill_or_refuse_what_is_masked() -> None:
    column = masked([1.0, 99.0], mask=[0, 1])
    assert numeric("mean").encode(column).tolist() == [1.0, 2.0]
    assert numeric("indicator").encode(column).tolist() == [[1.0, 0.0], [2.0, 1.0]]
    assert TextEncoder("t", ("a", "b"), 1, "b").encode(masked(["a", "a"], mask=[0, 1])).tolist() == (
        TextEncoder("t", ("a", "b"), 1, "b").encode(["a", None]).tolist()
    )
    for encoder, values, problem in (
        (numeric(None), column, "column 'x': null without a policy"),
        (TensorEncoder.fit(Tensor("x"), pa.array([1.0])), column, "column 'x': null without a policy"),
        (
            TensorEncoder.fit(Tensor("x"), pa.array([[1.0, 2.0]])),
            masked([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 0], [0, 1]]),
            "column 'x': null inside an array in 1 of 2 rows; row 1",
        ),
        (CategoricalEncoder("x", ("a", "b"), False), masked(["a", "b"], mask=[0, 1]), "column 'x': null"),
    ):
        with pytest.raises(SchemaError, match=problem):
            encoder.encode(values)


def test_an_array_without_a_mask_is_still_not_copied() -> None:
    values = np.arange(4.0)
    assert to_arrow(values).buffers()[1].address == values.ctypes.data
