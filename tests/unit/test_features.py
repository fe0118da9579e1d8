"""Encoders against plain Python, and what they refuse."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkdl import SchemaError
from sparkdl.data.columns import infer_shape, to_arrow, to_numpy
from sparkdl.data.features import encoder_from_json
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.moments import Moments, checked_numbers
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.features import Categorical, Numeric, Tensor

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def numeric_encoder(feature: Numeric, batches: list[pa.Array], shape: tuple[int, ...] = ()) -> NumericEncoder:
    allowed = feature.fill is not None
    values = [checked_numbers(b, name="x", shape=shape, unit="number", missing_allowed=allowed) for b in batches]
    moments = [Moments.of(v, shape) for v in values]
    merged = moments[0]
    for more in moments[1:]:
        merged = merged.merge(more)
    return NumericEncoder.fit(feature, merged)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), numbers), max_size=20), min_size=1, max_size=5))
def test_standardized_numbers_equal_a_plain_reference(batches: list[list[float | None]]) -> None:
    known = [x for batch in batches for x in batch if x is not None]
    if not known:
        return
    encoder = numeric_encoder(Numeric("x", fill="mean"), [pa.array(b, pa.float64()) for b in batches])
    mean = math.fsum(known) / len(known)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / len(known))
    assert encoder.mean == pytest.approx(mean, rel=1e-9, abs=1e-6) and encoder.std == pytest.approx(
        std, rel=1e-6, abs=1e-6
    )
    for batch in batches:
        filled = [encoder.mean if x is None else x for x in batch]
        expected = [np.float32((x - encoder.mean) / (encoder.std or 1.0)) for x in filled]
        assert encoder.encode(pa.array(batch, pa.float64())).tolist() == expected


def test_minmax_and_none_scale_as_they_say() -> None:
    column = pa.array([2, 4, 10], pa.int32())
    assert numeric_encoder(Numeric("x", scale="minmax"), [column]).encode(column).tolist() == [0.0, 0.25, 1.0]
    assert numeric_encoder(Numeric("x", scale="none"), [column]).encode(column).tolist() == [2.0, 4.0, 10.0]


def test_a_constant_column_is_only_shifted() -> None:
    column = pa.array([5.0, 5.0])
    assert numeric_encoder(Numeric("x"), [column]).encode(column).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.1, 123456.789, 1e-30])
def test_a_constant_that_is_not_exact_in_binary_is_only_shifted_too(value: float) -> None:
    batches = [pa.array([value] * 157), pa.array([value] * 31)]
    encoded = numeric_encoder(Numeric("x"), batches).encode(pa.array([value, value + 1]))
    assert encoded == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_value_beyond_float32_is_refused() -> None:
    with pytest.raises(SchemaError, match="beyond the range of float32"):
        numeric_encoder(Numeric("x", scale="none"), [pa.array([1.0, 2.0])]).encode(pa.array([1e300]))
    with pytest.raises(SchemaError, match="beyond the range of float32"):
        TensorEncoder.fit(Tensor("x"), pa.array([1.0])).encode(pa.array([1e300]))


@pytest.mark.parametrize("column", [pa.array(["7", None]), pa.array([b"7", None])])
def test_a_fill_does_not_make_text_a_number(column: pa.Array) -> None:
    with pytest.raises(SchemaError, match="are no numbers"):
        numeric_encoder(Numeric("x", fill=0), [pa.array([1.0, 2.0])]).encode(column)


def test_arrays_are_scaled_per_last_axis() -> None:
    column = pa.array([[1.0, 10.0], [3.0, 30.0]])
    encoder = numeric_encoder(Numeric("x"), [column], shape=(2,))
    assert encoder.mean == (2.0, 20.0) and encoder.std == (1.0, 10.0)
    assert encoder.encode(column).tolist() == [[-1.0, -1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("values", "problem"),
    [([1.0, None], "null without a policy"), ([1.0, math.nan], "NaN without a policy"), ([1.0, math.inf], "infinite")],
)
def test_a_bad_number_is_named_with_its_row(values: list, problem: str) -> None:
    encoder = numeric_encoder(Numeric("x"), [pa.array([1.0, 2.0])])
    with pytest.raises(SchemaError, match=f"column 'x': {problem}.*1 of 2 rows; row 1"):
        encoder.encode(pa.array(values))


def test_a_constant_fills_nulls_of_whole_numbers() -> None:
    encoder = numeric_encoder(Numeric("x", scale="none", fill=-1), [pa.array([1, None, 3], pa.int64())])
    assert encoder.encode(pa.array([None, 7], pa.int64())).tolist() == [-1.0, 7.0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("aabbbcdäö€ "), min_size=1),
    st.integers(1, 6),
    st.integers(1, 3),
    st.lists(st.sampled_from("abxyz")),
)
def test_categories_equal_a_plain_reference(train: list[str], size: int, least: int, scored: list[str]) -> None:
    counts = [(value, train.count(value)) for value in set(train)]
    if max(count for _, count in counts) < least:
        with pytest.raises(SchemaError, match="lower min_count"):
            CategoricalEncoder.fit(Categorical("c", min_count=least), counts, is_label=False)
        return
    encoder = CategoricalEncoder.fit(Categorical("c", max_size=size, min_count=least), counts, is_label=False)
    kept = [value for value, count in sorted(counts, key=lambda pair: (-pair[1], pair[0])) if count >= least][:size]
    expected = [kept.index(value) + 1 if value in kept else 0 for value in scored]
    assert encoder.encode(pa.array(scored, pa.string())).tolist() == expected
    assert encoder.size == len(kept) + 1


def test_a_label_has_sorted_classes_and_no_unknown_slot() -> None:
    encoder = CategoricalEncoder.fit(Categorical("y"), [("dog", 5), ("cat", 9)], is_label=True)
    assert encoder.vocabulary == ("cat", "dog") and encoder.size == 2
    assert encoder.encode(pa.array(["dog", "cat"])).tolist() == [1, 0]
    with pytest.raises(SchemaError, match="label unseen in the train split in 1 of 2 rows; row 1 is 'cow'"):
        encoder.encode(pa.array(["dog", "cow"]))


def test_a_label_of_one_class_is_refused() -> None:
    with pytest.raises(SchemaError, match="1 class"):
        CategoricalEncoder.fit(Categorical("y"), [(3, 10)], is_label=True)


def test_categories_of_another_type_than_fitted_are_refused() -> None:
    encoder = CategoricalEncoder.fit(Categorical("c"), [(3, 1), (4, 1)], is_label=False)
    assert encoder.encode(pa.array([4, 5], pa.int16())).tolist() == [2, 0]
    with pytest.raises(SchemaError, match="was int64 when it was fitted and is string now"):
        encoder.encode(pa.array(["3"]))
    with pytest.raises(SchemaError, match="are no categories"):
        encoder.encode(pa.array([1.5]))


VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)
DENSE = {"type": 1, "size": None, "indices": None, "values": [1.0, 2.0, 3.0]}
SPARSE = {"type": 0, "size": 3, "indices": [2, 0], "values": [5.0, 7.0]}
EMPTY = {"type": 0, "size": 3, "indices": [], "values": []}


@pytest.mark.parametrize(
    ("column", "shape", "expected"),
    [
        (pa.array([1, 2], pa.int64()), (), [1, 2]),
        (pa.array([True, False]), (), [True, False]),
        (pa.array([Decimal("1.50"), Decimal("2.25")]), (), [1.5, 2.25]),
        (pa.array([[1.0, 2.0], [3.0, 4.0]]), (2,), [[1.0, 2.0], [3.0, 4.0]]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), (2,), [[1, 2], [3, 4]]),
        (pa.array([[[1], [2]], [[3], [4]]], pa.large_list(pa.list_(pa.int32()))), (2, 1), [[[1], [2]], [[3], [4]]]),
        (pa.array([DENSE, SPARSE, EMPTY], VECTOR), (3,), [[1.0, 2.0, 3.0], [7.0, 0.0, 5.0], [0.0, 0.0, 0.0]]),
    ],
)
@pytest.mark.parametrize("start", [0, 1])
def test_columns_become_dense_arrays(column: pa.Array, shape: tuple, expected: list, start: int) -> None:
    assert infer_shape(column, name="x") == shape
    assert to_numpy(column[start:], name="x", shape=shape).tolist() == expected[start:]


@pytest.mark.parametrize(
    ("column", "shape", "problem"),
    [
        (pa.array([[1, 2], [3]]), (2,), "ragged array.*1 of 2 rows; row 1 is \\[3\\]"),
        (pa.array([[[1], [2]], [[3], [4, 5]]]), (2, 1), "ragged array.*row 1"),
        (pa.array([[1, None]]), (2,), "null inside an array"),
        (pa.array([[1, 2], None]), (2,), "null without a policy"),
        (pa.array(["a"]), (), "strings need an encoder"),
        (pa.array([1.0]), (2,), "shape \\(2,\\) was expected"),
        (pa.array([[1.0]]), (), "more axes than the shape"),
        (pa.array([DENSE, {**SPARSE, "size": 4}], VECTOR), (3,), "vector is not of size 3.*row 1"),
    ],
)
def test_a_column_of_another_shape_is_refused(column: pa.Array, shape: tuple, problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        to_numpy(column, name="x", shape=shape)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool"])
def test_arrays_go_to_arrow_and_back(dtype: str) -> None:
    array = (np.arange(24).reshape(4, 3, 2) % 2).astype(dtype)
    assert to_numpy(to_arrow(array), name="x", shape=(3, 2)).tolist() == array.tolist()


def test_a_tensor_takes_its_dtype_from_the_column() -> None:
    for type_, dtype in ((pa.float64(), "float32"), (pa.int16(), "int32"), (pa.int64(), "int64"), (pa.bool_(), "bool")):
        assert TensorEncoder.fit(Tensor("x"), pa.array([1], pa.int8()).cast(type_)).dtype == dtype


def test_a_flat_array_takes_the_declared_shape() -> None:
    encoder = TensorEncoder.fit(Tensor("x", shape=(2, 2, 1)), pa.array([[1.0, 2.0, 3.0, 4.0]]))
    assert encoder.encode(pa.array([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[[[1.0], [2.0]], [[3.0], [4.0]]]]
    with pytest.raises(SchemaError, match="declared shape \\(3,\\), the first row's is \\(4,\\)"):
        TensorEncoder.fit(Tensor("x", shape=(3,)), pa.array([[1.0, 2.0, 3.0, 4.0]]))


def test_a_value_that_does_not_fit_the_dtype_is_refused() -> None:
    encoder = TensorEncoder.fit(Tensor("x", dtype="uint8"), pa.array([1], pa.int64()))
    with pytest.raises(SchemaError, match="value does not fit uint8 in 1 of 2 rows; row 1 is 256"):
        encoder.encode(pa.array([255, 256], pa.int64()))


@pytest.mark.parametrize(
    "encoder",
    [
        numeric_encoder(Numeric("x", fill="mean"), [pa.array([1.0, 5.0])]),
        numeric_encoder(Numeric("x"), [pa.array([[1.0, 5.0]])], shape=(2,)),
        CategoricalEncoder.fit(Categorical("x"), [("a", 2), ("b", 1)], is_label=False),
        CategoricalEncoder.fit(Categorical("x"), [(3, 2), (4, 1)], is_label=True),
        TensorEncoder.fit(Tensor("x", shape=(1, 2)), pa.array([[1.0, 2.0]])),
    ],
)
def test_an_encoder_survives_its_json(encoder) -> None:
    import json

    assert encoder_from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
