"""Encoders against plain Python, and what they refuse."""

import datetime
import json
import math
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from draws import drawn
from sparkdl import ConfigError, SchemaError
from sparkdl.data.features import as_feature, encoder_from_json
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.categories import CategoriesEncoder
from sparkdl.data.features.columns import as_array, infer_shape, raw_values, to_arrow, to_numpy
from sparkdl.data.features.feature import raw_columns
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.moments import Moments, checked_numbers
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import TextEncoder
from sparkdl.data.prepare.statistics import counted_values
from sparkdl.data.prepare.writer import sample_weights
from sparkdl.features import Categorical, Categories, Image, Numeric, Tensor, Text
from sparkdl.score.worker.encode import encode_columns

# The square of what is nearer to 0 underflows; such columns are refused, as another test shows.
numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x if abs(x) > 1e-100 else 0.0)


def numeric_encoder(feature: Numeric, batches: list[pa.Array], shape: tuple[int, ...] = ()) -> NumericEncoder:
    allowed = feature.fill is not None
    values = [checked_numbers(b, name="x", shape=shape, unit="number", missing_allowed=allowed) for b in batches]
    moments = [Moments.of(v, shape) for v in values]
    merged = moments[0]
    for more in moments[1:]:
        merged = merged.merge(more)
    return NumericEncoder.fit(feature, merged)


@drawn(100)
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
    with pytest.raises(SchemaError, match="are not numbers"):
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


@drawn(100)
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
    with pytest.raises(
        SchemaError, match="label is not among the 2 classes kept from the train split in 1 of 2 rows; row 1 is 'cow'"
    ):
        encoder.encode(pa.array(["dog", "cow"]))


def test_a_label_of_one_class_is_refused() -> None:
    with pytest.raises(SchemaError, match="1 class"):
        CategoricalEncoder.fit(Categorical("y"), [(3, 10)], is_label=True)


def test_categories_of_another_type_than_fitted_are_refused() -> None:
    encoder = CategoricalEncoder.fit(Categorical("c"), [(3, 1), (4, 1)], is_label=False)
    assert encoder.encode(pa.array([4, 5], pa.int16())).tolist() == [2, 0]
    with pytest.raises(SchemaError, match="was int64 when it was fitted and is string now"):
        encoder.encode(pa.array(["3"]))
    with pytest.raises(SchemaError, match="cannot be categories"):
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


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array([datetime.date(2020, 1, 1)]), "date32.* are not sample weights; give numbers"),
        (pa.array([datetime.datetime(2020, 1, 1)]), "timestamp.* are not sample weights; give numbers"),
        (pa.array([0.0, 1e-50]), "would become 0 as float32 .scale the weights. in 1 of 2 rows; row 1 is 1e-50"),
        (pa.array([1e39]), "not a finite number"),
    ],
)
def test_sample_weights_are_numbers_that_float32_holds(column: pa.Array, problem: str) -> None:
    with pytest.raises(SchemaError, match=f"column 'w': .*{problem}"):
        sample_weights(column, "w")
    assert sample_weights(pa.array([True, False]), "w").tolist() == [1, 0]


def test_decimals_that_a_float_does_not_hold_are_no_whole_numbers() -> None:
    wide = pa.array([Decimal(2**53 - 1), Decimal(2**53 + 1)], pa.decimal128(38, 0))
    encoder = TensorEncoder.fit(Tensor("x", dtype="int64"), wide[:1])
    assert encoder.encode(wide[:1]).tolist() == [2**53 - 1]
    with pytest.raises(SchemaError, match=r"cast it to bigint\) in 1 of 2 rows; row 1 is .*9007199254740993"):
        encoder.encode(wide)


@pytest.mark.parametrize("feature", [Categorical("x"), Text("x", length=2)])
def test_text_that_is_not_utf8_has_no_vocabulary(feature) -> None:
    """Spark gave the bytes back as others, so each such value was out of the vocabulary that it had made."""
    contents = [b"", b"caf\xc3\xa9", b"caf\xe9"]
    offsets = np.cumsum([0, *map(len, contents)]).astype(np.int32)
    column = pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(contents))])
    assert len(counted_values(column[:2], feature))
    problem = r"column 'x': text that is not UTF-8 .*ISO-8859-1.* in 1 of 3 rows; row 2 is b'caf\\xe9'"
    with pytest.raises(SchemaError, match=problem):
        counted_values(column, feature)
    if isinstance(feature, Text):
        encoder = TextEncoder.fit(feature, [("café", 1)])
    else:
        encoder = CategoricalEncoder.fit(feature, [("café", 1), ("", 1)], is_label=False)
    for scored in (column, column.cast(pa.large_string())):
        with pytest.raises(SchemaError, match=problem) as caught:
            encoder.encode(scored)
        assert list(caught.value.rows) == [2]
    with pytest.raises(SchemaError, match=r"not UTF-8 .*; row 2 of the file is b'caf\\xe9'"):
        encode_columns([encoder], {encoder.name: column}, row_name="row {} of the file".format, keep_bad=False)
    encoded, reasons = encode_columns([encoder], {encoder.name: column}, row_name=str, keep_bad=True)
    assert list(reasons) == [2] and np.asarray(encoded["x"])[1].any()


def test_what_null_is_must_be_said_once_and_fit_the_column() -> None:
    with pytest.raises(ConfigError, match="fill='a' and missing='category' both name what null is"):
        Categorical("x", fill="a", missing="category")
    with pytest.raises(ConfigError, match="missing='null' must be 'error' or 'category'"):
        Categorical("x", missing="null")
    with pytest.raises(ConfigError, match=r"fill=1.5 must be a string, a whole number or None"):
        Categorical("x", fill=1.5)
    for column, fill in ((pa.array([1, None]), "a"), (pa.array(["a", None]), 1), (pa.array(["a"]), 1)):
        with pytest.raises(SchemaError, match=f"column 'x': fill={fill!r} cannot stand for null in a column of"):
            counted_values(column, Categorical("x", fill=fill))


def test_text_of_one_look_is_one_word_unless_its_dataset_is_older() -> None:
    texts = pa.array(["cafe\u0301 ﬁn", "café fin", "ＣＡＦÉ\u00a0Fin"])
    feature = Text("x", length=2)
    assert counted_values(texts, feature).to_pylist() == ["café", "fin"] * 3
    encoder = TextEncoder.fit(feature, [("café", 3), ("fin", 3)])
    assert encoder.encode(texts).tolist() == [[2, 3]] * 3
    older = {"kind": "text", "name": "x", "vocabulary": ["café", "fin"], "length": 2, "fill": None}
    assert encoder_from_json(older).encode(texts).tolist() == [[1, 1], [2, 3], [1, 3]]
    assert encoder_from_json(older).to_json() == older


def test_a_tokenizer_gives_the_words(tmp_path, monkeypatch) -> None:
    (tmp_path / "cutting.py").write_text(
        "def pairs(text): return [text[i : i + 2] for i in range(0, len(text), 2)]\n"
        "def broken(text): return [text] if text != 'ab' else 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    feature = Text("x", length=3, tokenizer="cutting:pairs")
    texts = pa.array(["日本語", "", "日本ab", "\uff21b"])
    assert counted_values(texts, feature).to_pylist() == ["日本", "語", "日本", "ab", "Ab"]
    encoder = TextEncoder.fit(feature, [("日本", 2), ("ab", 1)])
    assert encoder.encode(texts).tolist() == [[2, 1, 0], [0, 0, 0], [2, 3, 0], [1, 0, 0]]
    assert encoder_from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
    for tokenizer, problem, kind in (
        ("cutting:broken", "tokenizer cutting:broken fails with ZeroDivisionError.* row 1 is 'ab'", SchemaError),
        ("json:dumps", "tokenizer json:dumps returned .*, which is not a list of strings", SchemaError),
        ("cutting:pair", "module cutting has no such function; did you mean 'pairs'", ConfigError),
        ("nowhere_here:cut", "No module named 'nowhere_here'; install the module on every host", ConfigError),
    ):
        wrong = TextEncoder("x", ("a",), 2, None, None, tokenizer)
        with pytest.raises(kind, match=problem):
            wrong.encode(pa.array(["x", "ab"]))


def test_arrays_of_categories_are_refused_by_name() -> None:
    encoder = CategoriesEncoder.fit(Categories("x"), [("a", 2), ("b", 1)], is_label=False)
    for column, problem in (
        (pa.array(["a"]), "are not arrays; use Categorical"),
        (pa.array([[1.5]]), "cannot be categories; cast them to strings"),
        (pa.array([[["a"]]]), "cannot be categories; use strings or whole numbers"),
        (pa.array([[1]]), "held arrays of string when it was fitted and holds int64 now"),
        (pa.array([], pa.list_(pa.int64())), "held arrays of string when it was fitted and holds int64 now"),
        (pa.array([["a"], None]), "null without a policy .*missing='empty'.* in 1 of 2 rows; row 1 is None"),
        (pa.array([["a"], ["b", None]]), "null inside an array without a policy .*; row 1 is .'b', None."),
    ):
        with pytest.raises(SchemaError, match=f"column 'x'.*{problem}"):
            encoder.encode(column)
    contents = pa.array([b"a", b"caf\xe9", b"b"])
    text = pa.Array.from_buffers(pa.string(), 3, contents.buffers())
    broken = pa.ListArray.from_arrays(pa.array([0, 1, 1, 3], pa.int32()), text)
    with pytest.raises(SchemaError, match="column 'x': text that is not UTF-8 .* in 1 of 3 rows; row 2 is") as caught:
        encoder.encode(broken)
    assert list(caught.value.rows) == [2]


def test_a_label_of_several_classes_has_no_unknown_slot() -> None:
    encoder = CategoriesEncoder.fit(Categories("y"), [("dog", 5), ("cat", 2)], is_label=True)
    assert encoder.vocabulary == ("cat", "dog") and encoder.shape == (2,)
    assert encoder.encode(pa.array([["dog"], [], ["dog", "cat", "dog"]])).tolist() == [[0, 1], [0, 0], [1, 1]]
    with pytest.raises(SchemaError, match="label is not among the 2 classes .* in 1 of 2 rows; row 1 is"):
        encoder.encode(pa.array([[], ["dog", "cow"]]))


def test_a_padded_tensor_refuses_longer_arrays_and_null() -> None:
    encoder = TensorEncoder.fit(Tensor("x", shape=(3,), pad=0, dtype="int8"), pa.array([[]], pa.list_(pa.int32())))
    assert encoder.encode(pa.array([[1], [], [1, 2, 3]])).tolist() == [[1, 0, 0], [0, 0, 0], [1, 2, 3]]
    with pytest.raises(
        SchemaError, match=r"array of more than 3 elements \(slice\(x, 1, 3\).* in 1 of 2 rows; row 1 is"
    ):
        encoder.encode(pa.array([[1], [1, 2, 3, 4]]))
    for column, problem in (
        (pa.array([[1], None]), "null without a policy"),
        (pa.array([[1, None]]), "null inside an array"),
        (pa.array([1]), "pad=0 is for arrays of numbers"),
        (pa.array([["a"]]), "are not numbers"),
        (pa.array([[1, 200]]), "value does not fit int8 in 1 of 1 rows"),
    ):
        with pytest.raises(SchemaError, match=problem):
            encoder.encode(column)
    with pytest.raises(SchemaError, match="pad=0.5 is not a value of int32"):
        TensorEncoder.fit(Tensor("x", shape=(3,), pad=0.5), pa.array([[1]], pa.list_(pa.int32())))


def test_a_column_of_nulls_alone_is_scored_by_the_policy() -> None:
    nulls = pa.array([None, None])
    counts = [("a", 2), ("b", 1)]
    filled = CategoricalEncoder.fit(Categorical("x", fill="b"), counts, is_label=False)
    assert filled.encode(nulls).tolist() == [2, 2]
    category = CategoricalEncoder.fit(Categorical("x", missing="category"), counts, is_label=False)
    assert category.encode(nulls).tolist() == [3, 3] and category.size == 4
    numbers = CategoricalEncoder.fit(Categorical("x", missing="category"), [(7, 1), (8, 1)], is_label=False)
    assert numbers.encode(nulls).tolist() == [3, 3]
    assert numbers.encode(pa.array([None, 8])).tolist() == [3, 2]


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
        CategoricalEncoder.fit(Categorical("x", fill=4), [(3, 2), (4, 1)], is_label=True),
        CategoricalEncoder.fit(Categorical("x", missing="category"), [("a", 2)], is_label=False),
        CategoriesEncoder.fit(Categories("x"), [("a", 2)], is_label=False),
        CategoriesEncoder.fit(Categories("x", output="ids", length=3, missing="empty"), [(7, 2)], is_label=False),
        TensorEncoder.fit(Tensor("x", shape=(3,), pad=-1), pa.array([[1.0, 2.0]])),
        TensorEncoder.fit(Tensor("x", shape=(1, 2)), pa.array([[1.0, 2.0]])),
        TensorEncoder.fit(Tensor("x"), pa.array([datetime.date(2020, 1, 2)])),
        numeric_encoder(Numeric("x", fill="indicator"), [pa.array([1.0, None])]),
        numeric_encoder(Numeric("x", fill="mean"), [pa.array([[1.0, 5.0]])], shape=(2,)),
        TextEncoder.fit(Text("x", length=3, fill=""), [("a", 2), ("b", 1)]),
        ImageEncoder.fit(Image("x", height=2, width=3, store="encoded", fill=0), pa.binary()),
    ],
)
def test_an_encoder_survives_its_json(encoder) -> None:
    assert encoder_from_json(json.loads(json.dumps(encoder.to_json()))) == encoder


def test_an_encoder_survives_pickling_after_it_encoded() -> None:
    for encoder in (
        CategoricalEncoder.fit(Categorical("x"), [("a", 2), ("b", 1)], is_label=False),
        TextEncoder.fit(Text("x", length=3), [("a", 2)]),
    ):
        encoded = encoder.encode(pa.array(["b", "a c"]))
        again = pickle.loads(pickle.dumps(encoder))
        assert again == encoder and (again.encode(pa.array(["b", "a c"])) == encoded).all()


def test_encoders_of_version_0_1_0_are_read() -> None:
    """Their JSON names neither a unit nor an indicator."""
    numeric = {"kind": "numeric", "name": "x", "shape": [], "scale": "none", "mean": 1.0, "std": 1.0, "low": 0.0}
    assert encoder_from_json({**numeric, "high": 2.0, "fill": 7.0}).encode(pa.array([None, 2.0])).tolist() == [7.0, 2.0]
    tensor = {"kind": "tensor", "name": "x", "column_shape": [2], "shape": [2, 1], "dtype": "float32"}
    assert encoder_from_json(tensor).encode(pa.array([[1.0, 2.0]])).tolist() == [[[1.0], [2.0]]]
    # Without later options the JSON has no field for them: datasets and signatures keep their fingerprints.
    category = {"kind": "categorical", "name": "x", "vocabulary": ["a"], "is_label": False}
    assert encoder_from_json(category).to_json() == category


@pytest.mark.parametrize(
    ("mapping", "feature"),
    [
        ({"text": "review", "length": 200}, Text("review", length=200)),
        (
            {"image": "content", "height": 28, "width": 28, "channels": 1},
            Image("content", height=28, width=28, channels=1),
        ),
        ({"numeric": "age", "fill": "median"}, Numeric("age", fill="median")),
        ({"numeric": ["age", "hours"], "name": "numbers"}, Numeric(["age", "hours"], name="numbers")),
        ({"categorical": "job", "max_size": 10}, Categorical("job", max_size=10)),
        ({"categorical": "job", "missing": "category"}, Categorical("job", missing="category")),
        ({"categories": "tags", "output": "ids", "length": 4}, Categories("tags", output="ids", length=4)),
        ({"tensor": "hist", "shape": [5], "pad": 0}, Tensor("hist", shape=(5,), pad=0)),
        ({"tensor": "pixels", "shape": [8, 8, 1]}, Tensor("pixels", shape=(8, 8, 1))),
        ("hours", Tensor("hours")),
    ],
)
def test_yaml_declares_features(mapping: object, feature: object) -> None:
    assert as_feature(mapping) == feature == as_feature(feature)


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"txt": "review"}, "must name one kind.*did you mean 'text'"),
        ({"text": "review"}, "text feature 'review' needs the option 'length'"),
        ({"text": "review", "length": "200"}, "length='200' must be a whole number of at least 1"),
        ({"text": "review", "length": 2, "max_size": 0}, "max_size=0 must be a whole number"),
        ({"text": "review", "length": 2, "fill": 0}, "fill=0 must be a text or None"),
        ({"text": "review", "length": 2, "normalize": "NFD"}, "normalize='NFD' must be one of NFC, NFKC, or None"),
        ({"text": "review", "length": 2, "tokenizer": "jieba"}, "tokenizer='jieba' must have the form module:function"),
        ({"text": "review", "length": 2, "min": 3}, "text feature 'review': unknown option 'min'"),
        ({"image": "content", "height": 28}, "image feature 'content' needs the option 'width'"),
        ({"text": 3, "length": 2}, "text feature 3 must be the name of a column"),
        ({"categorical": "c", "min_count": True}, "min_count=True must be a whole number"),
        ({"categories": "c", "output": "one_hot"}, "output='one_hot' must be 'multi_hot' or 'ids'"),
        ({"categories": "c", "output": "ids"}, "output='ids' needs length"),
        ({"categories": "c", "length": 3}, "length=3 is for output='ids'"),
        ({"categories": "c", "missing": "category"}, "missing='category' must be 'error' or 'empty'"),
        ({"tensor": "c", "pad": 0}, "pad=0 needs shape=.n,."),
        ({"tensor": "c", "shape": [2, 2], "pad": 0}, "pad=0 needs shape=.n,."),
        ({"tensor": "c", "shape": [2], "pad": "0"}, "pad='0' must be a number"),
        (
            {"numeric": "x", "fill": "mode"},
            "fill='mode' must be one of mean, median, indicator, a finite number or None",
        ),
        ({"numeric": ["a", "b"]}, "several columns need a name"),
        ({"numeric": "a", "name": "b"}, "an input of one column has the column's name"),
        ({"numeric": ["a", "a"], "name": "b"}, "column 'a' is named twice"),
        ({"numeric": ["a", 3], "name": "b"}, "must be a column or a list of columns"),
        ({"numeric": ["a", "B"], "name": "b"}, "name='b' is that of a column"),
        ({"numeric": [], "name": "b"}, "must be a column or a list of columns"),
        ({"numeric": ["a", "b"], "name": "c", "fill": "indicator"}, "fill='indicator' is for one column"),
        ({"categorical": ["a", "b"]}, "must be the name of a column"),
        (7, "7 is not a feature; use Numeric, Categorical, Categories, Text, Image, Tensor or a column's name"),
    ],
)
def test_a_wrong_declaration_is_named(mapping: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        as_feature(mapping)


def test_another_kind_of_time_than_fitted_is_refused() -> None:
    """Days and seconds differ by a factor that no shape or dtype would show."""
    days = pa.array([datetime.date(1970, 1, 3)])
    seconds = pa.array([datetime.datetime(1970, 1, 3)])
    tensor = TensorEncoder.fit(Tensor("x"), days)
    assert tensor.encode(days).tolist() == [2] and tensor.dtype == np.int32
    with pytest.raises(SchemaError, match="'x' held dates when it was fitted, and is timestamp"):
        tensor.encode(seconds)
    numeric = NumericEncoder.fit(Numeric("x", scale="none"), Moments.of(np.array([0.0, 2.0]), ()), unit="seconds")
    assert numeric.encode(seconds.cast(pa.timestamp("us", "Asia/Tokyo"))).tolist() == [172_800.0]
    for other in (pa.array([3]), seconds):
        with pytest.raises(SchemaError, match="'x' held timestamps with a time zone when it was fitted, and is"):
            numeric.encode(other)


def test_pandas_nanoseconds_and_sparks_microseconds_give_the_same_seconds() -> None:
    times = pd.Series(pd.to_datetime(["2024-02-29 12:34:56.789123", "1969-12-31 23:59:59.999999"]))
    spark = pa.array(times).cast(pa.timestamp("us"))
    encoder = TensorEncoder.fit(Tensor("x"), spark)
    assert encoder.encode(times).tobytes() == encoder.encode(spark).tobytes()
    assert encoder.encode(times).tolist() == [1709210096.789123, -0.000001]


def test_nulls_inside_nested_arrays_take_the_fill_of_their_place() -> None:
    column = pa.array([[[1.0, 2.0], None], None, [[3.0, None], [5.0, 6.0]]])
    encoder = numeric_encoder(Numeric("x", scale="none", fill="mean"), [column], shape=(2, 2))
    assert encoder.mean == (3.0, 4.0)
    expected = [[[1.0, 2.0], [3.0, 4.0]], [[3.0, 4.0], [3.0, 4.0]], [[3.0, 4.0], [5.0, 6.0]]]
    assert encoder.encode(column).tolist() == expected
    assert encoder.encode(column.cast(pa.list_(pa.list_(pa.float64(), 2), 2))).tolist() == expected


def test_several_columns_are_scaled_one_by_one_and_named_by_themselves() -> None:
    encoder = NumericEncoder(
        "numbers", (3,), "standardize", (1.0, 2.0, 0.0), (1.0, 2.0, 0.0), (0.0,) * 3, (9.0,) * 3, None,
        columns=("age", "pay", "sure"),
    )  # fmt: skip
    assert raw_columns(encoder) == ("age", "pay", "sure") and encoder_from_json(encoder.to_json()) == encoder
    columns = {"age": [1, 2], "pay": pa.array([Decimal("4.50"), Decimal("2.00")]), "sure": [True, False]}
    assert encoder.encode(raw_values(encoder, columns)).tolist() == [[0.0, 1.25, 1.0], [1.0, 0.0, 0.0]]
    for name, values, problem in [
        ("pay", pa.array([1.0, math.inf]), r"column 'pay': infinite value \(inf\) in 1 of 2 rows, the first is row 1"),
        ("age", [None, 3], "column 'age': null or NaN without a policy .* .nan. in 1 of 2 rows, the first is row 0"),
        ("pay", [math.inf, math.inf], r"column 'pay': infinite value \(inf\) in 2 of 2 rows, the first is row 0"),
        ("age", [1, 2, 3], "columns differ in length: .'age': 3, 'pay': 2, 'sure': 2."),
        ("sure", ["a", "b"], "column 'sure': values of type string are not numbers"),
        ("age", [[1], [2]], "column 'age' is list<item: int64>; an input of several columns takes plain numbers"),
        ("age", pa.array([1, 2], pa.date32()), "column 'age' is date32.day.; an input of several columns takes plain"),
        ("pay", [1e300, 0.0], "column 'pay': value beyond the range of float32"),
    ]:
        with pytest.raises(SchemaError, match=problem):
            encoder.encode(raw_values(encoder, {**columns, name: values}))


def test_a_position_of_an_array_without_any_value_is_named() -> None:
    with pytest.raises(SchemaError, match="no value that is not null at position 1 of the last axis"):
        numeric_encoder(Numeric("x", fill="mean"), [pa.array([[1.0, None], [2.0, None]])], shape=(2,))


def test_values_too_large_to_be_averaged_are_refused() -> None:
    with pytest.raises(SchemaError, match="too large to be scaled"):
        numeric_encoder(Numeric("x"), [pa.array([1e308, -1e308, 1e308])])


def test_values_whose_deviation_underflows_are_refused_and_not_made_zero() -> None:
    values = pa.array([1e-170, 2e-170, 3e-170])
    with pytest.raises(SchemaError, match="too small to be scaled, their deviation is 0 in float64"):
        numeric_encoder(Numeric("x"), [values])
    assert numeric_encoder(Numeric("x", scale="minmax"), [values]).encode(values).tolist() == [0.0, 0.5, 1.0]
    assert numeric_encoder(Numeric("x"), [pa.array([5.0, 5.0])]).encode(pa.array([5.0, 6.0])).tolist() == [0.0, 1.0]


def test_whole_numbers_beyond_64_bits_are_no_categories() -> None:
    encoder = CategoricalEncoder("x", (1, 2), False)
    with pytest.raises(SchemaError, match="column 'x': whole numbers as categories must fit into 64 bits"):
        encoder.encode(pa.array([2**63], pa.uint64()))


@pytest.mark.parametrize(
    ("column", "way_out"),
    [
        (pa.array([{"a": 1}]), "select what is needed of it as separate columns"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), "select what is needed"),
        (pa.array(["a"]), "Categorical or Text"),
        (pa.array([b"a"]), "Image"),
        (pa.array([["a"]]), "Categorical or Text"),
        (pa.array([datetime.timedelta(1)]), "cast it to a number before"),
    ],
)
def test_a_type_that_is_no_number_is_named_with_the_way_out(column: pa.Array, way_out: str) -> None:
    for shape in ((), (1,)):
        with pytest.raises(SchemaError, match=f"column 'x': values of type .* are not numbers; .*{way_out}"):
            to_numpy(column, name="x", shape=shape)


def test_columns_without_spark_come_as_they_are() -> None:
    assert as_array(pd.Series(["a", None], dtype="category")).to_pylist() == ["a", None]
    assert as_array(pd.Series([1.0, math.nan])).null_count == 1
    assert as_array([1.0, math.nan]).null_count == 0
    assert as_array(pa.chunked_array([pa.array(["a"]).dictionary_encode(), pa.array(["b"]).dictionary_encode()])) == (
        pa.array(["a", "b"])
    )
    assert as_array(np.array([[1, 2]], np.uint8)).to_pylist() == [[1, 2]]


@pytest.mark.parametrize(
    ("column", "way_out"),
    [
        (pa.array([datetime.date(2020, 1, 1)]), "make a string or a whole number of them"),
        (pa.array([1.5]), "cast them to strings or whole numbers"),
        (pa.array([Decimal("1.5")]), "cast them to strings or whole numbers"),
        (pa.array([["a"]]), "use strings or whole numbers"),
    ],
)
def test_what_is_no_category_is_refused_with_the_way_out(column: pa.Array, way_out: str) -> None:
    encoder = CategoricalEncoder.fit(Categorical("c"), [("a", 1)], is_label=False)
    with pytest.raises(SchemaError, match=f"cannot be categories; {way_out}"):
        encoder.encode(column)


def test_every_encoder_of_values_says_that_they_are_stored() -> None:
    for kind in (CategoricalEncoder("x", ("a",), False), TextEncoder("x", ("a",), 2, None)):
        assert kind.stored == "values"
    assert TensorEncoder.fit(Tensor("x"), pa.array([1])).stored == "values"
    assert numeric_encoder(Numeric("x"), [pa.array([1.0])]).stored == "values"
