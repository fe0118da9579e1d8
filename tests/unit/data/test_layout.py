"""Records: what is packed comes back, through Arrow too."""

import numpy as np
import pyarrow as pa
import pytest

from sparkdl import DatasetError
from sparkdl.data.layout import Field, RecordLayout

FIELDS = (
    Field("feature", "flag", "uint8", ()),
    Field("feature", "image", "uint8", (3, 3)),
    Field("feature", "vector", "float32", (2,)),
    Field("label", "vector", "float64", ()),
    Field("weight", "w", "float32", ()),
)


def values(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f.key: rng.integers(0, 200, (rows, *f.shape)).astype(f.dtype) for f in FIELDS}


def test_packed_values_come_back_through_arrow() -> None:
    layout, packed = RecordLayout(FIELDS), values(7)
    column = pa.chunked_array(
        [layout.to_arrow(layout.pack(packed, rows=7)[:3]), layout.to_arrow(layout.pack(packed, rows=7)[3:])]
    )
    records = layout.from_arrow(column)
    for field in FIELDS:
        assert (records[field.key] == packed[field.key]).all()


def test_a_sliced_column_gives_its_own_rows() -> None:
    layout, packed = RecordLayout(FIELDS), values(7)
    assert (
        layout.from_arrow(layout.to_arrow(layout.pack(packed, rows=7))[2:5])["weight:w"] == packed["weight:w"][2:5]
    ).all()


def test_every_value_is_aligned() -> None:
    dtype = RecordLayout(FIELDS).dtype
    for field in FIELDS:
        assert dtype.fields[field.key][1] % np.dtype(field.dtype).itemsize == 0
    assert dtype.itemsize % 8 == 0


def test_a_column_of_another_width_is_refused() -> None:
    with pytest.raises(DatasetError, match="does not belong to this dataset"):
        RecordLayout(FIELDS).from_arrow(pa.array([b"abc"], pa.binary(3)))


def test_a_layout_survives_its_json() -> None:
    layout = RecordLayout(FIELDS)
    assert RecordLayout.from_json(layout.to_json()) == layout


def test_scalars_of_one_dtype_are_one_group() -> None:
    scalars = [Field("feature", f"f{i}", "float32", ()) for i in range(3)]
    layout = RecordLayout(
        (scalars[0], Field("label", "y", "int32", ()), scalars[1], Field("feature", "t", "float32", (2,)), scalars[2])
    )
    assert [[f.name for f in group.fields] for group in layout.groups] == [["f0", "f1", "f2"], ["t"], ["y"]]
    packed = {
        f.key: np.arange(4).reshape(-1, *[1] * len(f.shape)) + np.zeros((4, *f.shape)) + i
        for i, f in enumerate(layout.fields)
    }
    by_group = layout.pack(packed, rows=4).view(layout.group_dtype)
    assert by_group["0"].tolist() == [[i, i + 2, i + 4] for i in range(4)]
    assert by_group["1"].tolist() == [[i + 3] * 2 for i in range(4)]
    assert by_group["2"].tolist() == [i + 1 for i in range(4)]


def test_fields_stored_as_bytes_are_groups_of_their_own_outside_the_record() -> None:
    image = Field("feature", "image", "uint8", (4, 5, 3), stored="bytes")
    layout = RecordLayout((image, Field("label", "y", "int32", ())))
    assert layout.dtype.itemsize == 4 and layout.row_bytes == 4 + 60
    assert [group.fields[0].name for group in layout.groups] == ["y", "image"]
    assert layout.columns == ("__record__", "feature:image")
    assert RecordLayout.from_json(layout.to_json()) == layout
    assert RecordLayout((image,)).dtype.itemsize == 1
