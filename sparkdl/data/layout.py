"""Lay out a prepared row as one fixed-size record that holds all that the feed reads.

Used by prepare (Spark workers, to write), by the feed (ranks) and by `read_prepared` (Spark workers). One binary column
of fixed size scans 2.6-6 times as fast as `list<float>` and needs one column chunk, one copy and one gather per block
of rows, however many features there are (docs/decisions/0002). Fields that are stored as bytes of any length (encoded
images) lie in separate columns beside the record.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sparkdl.errors import DatasetError

__all__ = ["RECORD_COLUMN", "Field", "RecordLayout"]

RECORD_COLUMN = "__record__"


@dataclass(frozen=True, slots=True)
class Field:
    """Describe one value of a row. Its role is "feature", "label" or "weight"; dtype and shape are the model's input's.

    Attributes:
        stored: "values", in the record; or "bytes", in a separate column that the encoder decodes in the feed.
    """

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: str = "values"

    @property
    def key(self) -> str:
        """The field's name in the record; roles may share a column (an autoencoder's input and target)."""
        return f"{self.role}:{self.name}"


@dataclass(frozen=True, slots=True)
class Group:
    """Hold fields that are moved as one array: all scalars of a dtype, side by side in the record, or one tensor."""

    fields: tuple[Field, ...]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of every field, little-endian."""
        return np.dtype(self.fields[0].dtype).newbyteorder("<")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row: the only field's shape, or (number of scalars,) for several."""
        return self.fields[0].shape if len(self.fields) == 1 else (len(self.fields),)

    @property
    def stored(self) -> str:
        """The storage of every field: "values" or "bytes"."""
        return self.fields[0].stored


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Hold the fields of a record, little-endian, the widest first so that every value is aligned."""

    fields: tuple[Field, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """All fields, gathered into groups: first the record's, in its order, then those stored as bytes."""
        groups: list[list[Field]] = []
        for field in self._in_record():
            if groups and field.shape == groups[-1][0].shape == () and field.dtype == groups[-1][0].dtype:
                groups[-1].append(field)
            else:
                groups.append([field])
        groups += [[field] for field in self.stored_as_bytes]
        return tuple(Group(tuple(fields)) for fields in groups)

    @property
    def stored_as_bytes(self) -> tuple[Field, ...]:
        """The fields that are not in the record: each is in a binary column named by its key."""
        return tuple(field for field in self.fields if field.stored == "bytes")

    @property
    def columns(self) -> tuple[str, ...]:
        """The Parquet columns that the feed reads."""
        return (RECORD_COLUMN, *(field.key for field in self.stored_as_bytes))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as the model gets it: of the record, and of decoded fields that are stored as bytes."""
        return self.dtype.itemsize + sum(
            math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in self.stored_as_bytes
        )

    @property
    def group_dtype(self) -> np.dtype:
        """The record's dtype with a member "0", "1", … for each group instead of one for each field."""
        groups = [group for group in self.groups if group.stored == "values"]
        members: Any = self.dtype.fields
        return np.dtype(
            {
                "names": [str(number) for number in range(len(groups))],
                "formats": [(group.dtype, group.shape) for group in groups],
                "offsets": [members[group.fields[0].key][1] for group in groups],
                "itemsize": self.dtype.itemsize,
            }
        )

    def _in_record(self) -> list[Field]:
        """Return the fields as they lie in the record: widest first, scalars of a dtype side by side."""
        in_record = [field for field in self.fields if field.stored == "values"]
        return sorted(in_record, key=lambda f: (-np.dtype(f.dtype).itemsize, f.dtype, f.shape != ()))

    @property
    def dtype(self) -> np.dtype:
        """The record as a structured numpy dtype. Its itemsize is a multiple of its widest value's size."""
        widest_first = self._in_record()
        members: list[tuple[str, np.dtype, tuple[int, ...]]] = [
            (field.key, np.dtype(field.dtype).newbyteorder("<"), field.shape) for field in widest_first
        ]
        packed = np.dtype(members)
        widest = np.dtype(widest_first[0].dtype).itemsize if widest_first else 1
        # A record is never empty, even where all fields are stored as bytes.
        padding = -packed.itemsize % widest if members else 1
        return np.dtype([*members, ("padding", np.uint8, (padding,))]) if padding else packed

    def pack(self, values: Mapping[str, np.ndarray], *, rows: int) -> np.ndarray:
        """Pack arrays by field key, each of shape ``(rows, *field.shape)``, into records of shape ``(rows,)``."""
        records = np.zeros(rows, dtype=self.dtype)
        for field in self._in_record():
            records[field.key] = values[field.key]
        return records

    def to_arrow(self, records: np.ndarray) -> pa.Array:
        """Return records as a fixed-size binary Arrow column, without a copy."""
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(self.dtype.itemsize), len(records), [None, pa.py_buffer(np.ascontiguousarray(records))]
        )

    def from_arrow(self, column: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """Return the records of a fixed-size binary column, shape ``(rows,)``; a column of one chunk is not copied.

        Raises DatasetError if the column's width is not the record's.
        """
        if column.type != pa.binary(self.dtype.itemsize):
            raise DatasetError(
                f"column {RECORD_COLUMN!r} is {column.type}, the manifest says {self.dtype.itemsize} "
                "bytes a row; the part does not belong to this dataset"
            )
        if not len(column):
            return np.empty(0, dtype=self.dtype)
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        offset = column.offset * self.dtype.itemsize
        return np.frombuffer(column.buffers()[1], dtype=self.dtype, count=len(column), offset=offset)

    def of_role(self, role: str) -> tuple[Field, ...]:
        """Return the fields of one role, in the declared order."""
        return tuple(field for field in self.fields if field.role == role)

    def to_json(self) -> list[dict[str, Any]]:
        """Return all that `from_json` needs."""
        return [{**dataclasses.asdict(field), "shape": list(field.shape)} for field in self.fields]

    @classmethod
    def from_json(cls, content: Sequence[Mapping[str, Any]]) -> RecordLayout:
        """Make the layout that `to_json` described."""
        return cls(tuple(Field(**{**f, "shape": tuple(f["shape"])}) for f in content))
