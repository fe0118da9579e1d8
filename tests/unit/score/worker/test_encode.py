"""Bad rows: found, named by column, row and value, or left out without harm to the others."""

import io

import numpy as np
import pyarrow as pa
import pytest

from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import TextEncoder
from sparkdl.errors import SchemaError
from sparkdl.score.worker.encode import check_types, encode_columns

AGE = NumericEncoder("age", (), "none", mean=0.0, std=1.0, low=0.0, high=1.0, fill=None)
JOB = CategoricalEncoder("job", ("cook", "clerk"), False)
NOTE = TextEncoder("note", ("a", "b"), 2, None)
GRID = TensorEncoder("grid", (2,), (2,), np.dtype(np.float32))
COUNT = TensorEncoder("count", (), (), np.dtype(np.int32))
FACE = ImageEncoder("face", (2, 2, 1), "pixels", None)


def png(value: int) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("L", (2, 2), value).save(content, "PNG")
    return content.getvalue()


def encoded(encoders, columns, *, keep_bad: bool):
    by_name = {encoder.name: column for encoder, column in zip(encoders, columns, strict=True)}
    return encode_columns(encoders, by_name, row_name=lambda row: f"row {100 + row} of partition 3", keep_bad=keep_bad)


BAD = {
    # case: (encoder, the column, what is wrong with which row)
    "null number": (AGE, pa.array([1.0, None, 3.0]), {1: "null without a policy"}),
    "NaN and infinity": (AGE, pa.array([1.0, float("nan"), float("inf")]), {1: "NaN without", 2: "infinite value"}),
    "null category": (JOB, pa.array(["cook", None, "clerk"]), {1: "null without a policy"}),
    "null text": (NOTE, pa.array([None, "a b", None]), {0: "null without", 2: "null without"}),
    "ragged and null inside": (
        GRID,
        pa.array([[1.0, 2.0], [1.0], [1.0, None], None], pa.list_(pa.float32())),
        {1: "axis 0 is not of length 2", 2: "null inside an array", 3: "null without"},
    ),
    "fraction as a whole number": (COUNT, pa.array([1.0, 2.5, 3.0]), {1: "value does not fit int32"}),
    "images": (
        FACE,
        pa.array([png(7), b"none", None, png(9)[:45], png(9)]),
        {1: "image cannot be decoded .no image in one of", 2: "null without", 3: "image cannot be decoded"},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_zeros_with_a_reason_and_the_others_what_they_are_alone(case) -> None:
    encoder, column, bad = BAD[case]
    inputs, problems = encoded([encoder], [column], keep_bad=True)
    values = inputs[encoder.name]
    assert set(problems) == set(bad) and values.dtype == encoder.dtype
    for row in range(len(column)):
        if row in bad:
            assert problems[row].startswith(f"column '{encoder.name}': {bad[row].split('.')[0]}")
            assert not values[row].any()
        else:
            assert values[row].tobytes() == encoder.encode(column.slice(row, 1))[0].tobytes()


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_column_number_and_value(case) -> None:
    encoder, column, _ = BAD[case]
    with pytest.raises(SchemaError, match=rf"^column '{encoder.name}': .*; row 10\d of partition 3 is ") as caught:
        encoded([encoder], [column], keep_bad=False)
    assert "\n" not in str(caught.value)


def test_undecodable_images_have_reasons_of_their_own() -> None:
    _, problems = encoded([FACE], [BAD["images"][1]], keep_bad=True)
    assert "no image in one of the formats" in problems[1] and "no image in one of the formats" not in problems[3]


def test_a_row_that_is_bad_in_two_columns_has_one_reason_the_first() -> None:
    columns = [pa.array([None, 1.0]), pa.array([None, "cook"])]
    inputs, problems = encoded([AGE, JOB], columns, keep_bad=True)
    assert problems.keys() == {0} and problems[0].startswith("column 'age'")
    assert inputs["age"].tolist() == [0.0, 1.0] and inputs["job"].tolist() == [0, 1]


def test_rows_that_are_all_bad_leave_zeros() -> None:
    inputs, problems = encoded([FACE], [pa.array([b"x", b"y"])], keep_bad=True)
    assert len(problems) == 2 and inputs["face"].shape == (2, 2, 2, 1) and not inputs["face"].any()


@pytest.mark.parametrize(
    ("encoder", "type_", "message"),
    [
        (AGE, pa.string(), "strings need an encoder"),
        (AGE, pa.timestamp("us", "UTC"), "held numbers when it was fitted"),
        (JOB, pa.int64(), "was string when it was fitted and is int64 now"),
        (JOB, pa.float64(), "cannot be categories"),
        (NOTE, pa.int32(), "not text"),
        (GRID, pa.float32(), r"shape \(2,\) was expected, but values are float"),
        (GRID, pa.list_(pa.list_(pa.float32())), "arrays of more axes"),
        (COUNT, pa.list_(pa.int32()), "arrays of more axes"),
        (FACE, pa.string(), "not images"),
    ],
)
def test_a_column_of_a_wrong_type_is_an_error_without_rows_and_with(encoder, type_, message) -> None:
    with pytest.raises(SchemaError, match=f"column '{encoder.name}'.*{message}"):
        check_types([encoder], {encoder.name: type_})
    empty = pa.array([], type_)
    with pytest.raises(SchemaError, match=message):
        encoded([encoder], [empty], keep_bad=True)


@pytest.mark.parametrize(
    ("encoder", "type_"),
    [
        (AGE, pa.decimal128(5, 2)),
        (AGE, pa.bool_()),
        (JOB, pa.string()),
        (NOTE, pa.string()),
        (GRID, pa.list_(pa.float64())),
        (COUNT, pa.int64()),
        (FACE, pa.binary()),
    ],
)
def test_types_that_are_taken_pass(encoder, type_) -> None:
    check_types([encoder], {encoder.name: type_})
