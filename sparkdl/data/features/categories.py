"""Encode arrays of categories, such as tags, by a vocabulary of the train split.

Declared on the driver; `elements` counts and encodes, in Spark workers and beside the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.checks import named_options, require, require_whole
from sparkdl.data.features.bad_values import check_no_nulls, refuse
from sparkdl.data.features.categorical import as_categories, known_values, most_frequent
from sparkdl.data.features.column_types import is_list
from sparkdl.data.features.columns import as_array, list_lengths
from sparkdl.data.features.feature import Stored, StoredEncoder
from sparkdl.errors import SchemaError, shown

__all__ = ["Categories", "CategoriesEncoder", "check_arrays", "elements"]

PAD, UNKNOWN = 0, 1


@named_options
@dataclass(frozen=True, slots=True)
class Categories:
    """Declare arrays of strings, whole numbers or booleans, of any length.

    With output="multi_hot" the model gets float32 of shape (size,): 1.0 at the code of each value that the array holds,
    however often, where 0 is the code of values out of vocabulary and 1 that of the most frequent. As a label, for
    several classes at once, the codes are 0 … classes - 1 in sorted order, and a value unseen in train is an error.

    With output="ids" the model gets int32 of shape (length,): the codes of the first `length` values, where 0 pads, 1
    is out of vocabulary and 2 the most frequent. Raises ConfigError for a value out of range.
    """

    kind: ClassVar[str] = "categories"

    name: str
    _: KW_ONLY

    output: str = "multi_hot"
    """"multi_hot" or "ids"."""

    length: int | None = None
    """For output="ids": the number of values of a row; a shorter array is padded at its end, a longer one cut."""

    max_size: int | None = None
    """Keep at most this many values, the most frequent; ties go to the smaller value. None keeps all."""

    min_count: int = 1
    """Keep values that the train split has at least this often; a value that is twice in an array counts twice."""

    missing: str = "error"
    """"error": a null, and an array that holds one, is an error. "empty": a null is an empty array, and nulls inside of
    an array are left out."""

    def __post_init__(self) -> None:
        where = f"Categories({self.name!r})"
        good = self.output in ("multi_hot", "ids")
        require(good, f"{where}: output={shown(self.output)} must be 'multi_hot' or 'ids'")
        if self.output == "ids":
            require(self.length is not None, f"{where}: output='ids' needs length=…, the number of values of a row")
            require_whole(f"{where}: length", self.length)
        require(self.output == "ids" or self.length is None, f"{where}: length={self.length} is for output='ids'")
        if self.max_size is not None:
            require_whole(f"{where}: max_size", self.max_size)
        require_whole(f"{where}: min_count", self.min_count)
        good = self.missing in ("error", "empty")
        require(good, f"{where}: missing={shown(self.missing)} must be 'error' or 'empty'")


def check_arrays(column: pa.Array, *, name: str) -> None:
    """Raise SchemaError for a column whose rows are not arrays of values that can be categories."""
    if pa.types.is_null(column.type):
        return
    if not is_list(column.type):
        raise SchemaError(
            f"column {name!r}: values of type {column.type!s:.80} are not arrays; use Categorical for single values"
        )
    inner = column.type.value_type
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    as_categories(pa.array([], inner), name=name)


def elements(column: pa.Array, *, name: str, missing: str) -> tuple[pa.Array, np.ndarray]:
    """Return the values of all arrays in turn, strings or int64, and their number in each row: int64 (rows,).

    Raises SchemaError for a column that does not hold arrays of categories and, unless `missing` is "empty", for nulls.
    """
    check_arrays(column, name=name)
    way_out = "Categories(missing='empty'), or drop such rows"
    if missing == "error":
        check_no_nulls(name, column, way_out)
    if pa.types.is_null(column.type):
        return pa.array([], pa.string()), np.zeros(len(column), np.int64)
    lengths = np.maximum(list_lengths(column), 0)
    flat = as_array(column.flatten())
    if flat.null_count:
        row_of = np.repeat(np.arange(len(column)), lengths)
        null = flat.is_null().to_numpy(zero_copy_only=False)
        holding = np.bincount(row_of[null], minlength=len(column))
        if missing == "error":
            refuse(name, column, holding > 0, f"null inside an array without a policy ({way_out})")
        flat, lengths = flat.drop_null(), lengths - holding
    try:
        return as_categories(flat, name=name), lengths
    except SchemaError as error:
        if not error.rows:
            raise
        # The rows of that error are values of `flat`.
        row_of = np.repeat(np.arange(len(column)), lengths)
        bad = np.zeros(len(column), bool)
        bad[row_of[list(error.rows)]] = True
        problem = next(iter(error.rows.values())).removeprefix(f"column {name!r}: ")
        refuse(name, column, bad, problem)
        raise


@dataclass(frozen=True)
class CategoriesEncoder(StoredEncoder):
    """Encode arrays by the vocabulary of a fitted `Categories`.

    Attributes:
        vocabulary: the known values in the order of their codes.
        is_label: codes start at 0 and an unknown value is an error.
        output, length, missing: as in `Categories`.
    """

    kind: ClassVar[str] = "categories"
    stored: ClassVar[Stored] = "values"

    name: str
    vocabulary: tuple[str | int, ...]
    is_label: bool
    output: str
    length: int | None
    missing: str

    @classmethod
    def fit(cls, feature: Categories, counted: Sequence[tuple[str | int, int]], *, is_label: bool) -> CategoriesEncoder:
        """Fit an encoder to (value, count) pairs of the train split. Raises SchemaError if all values are too rare."""
        values = most_frequent(feature.name, counted, max_size=feature.max_size, min_count=feature.min_count)
        vocabulary = tuple(sorted(values) if is_label else values)
        return cls(feature.name, vocabulary, is_label, feature.output, feature.length, feature.missing)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int32 if self.output == "ids" else np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length or 0,) if self.output == "ids" else (self.size,)

    @property
    def size(self) -> int:
        """The number of codes: the `input_dim` of an embedding, or the length of a multi-hot row."""
        return len(self.vocabulary) + (2 if self.output == "ids" else 0 if self.is_label else 1)

    @cached_property
    def _known(self) -> pa.Array:
        return known_values(self.vocabulary)

    def encode(self, column: pa.Array) -> np.ndarray:
        column = as_array(column)
        flat, lengths = elements(column, name=self.name, missing=self.missing)
        has_type = is_list(column.type) and not pa.types.is_null(column.type.value_type)
        if has_type and pa.types.is_int64(flat.type) != pa.types.is_int64(self._known.type):
            raise SchemaError(
                f"column {self.name!r} held arrays of {self._known.type} when it was fitted and holds {flat.type} now"
            )
        if not len(flat):
            return np.zeros((len(lengths), *self.shape), self.dtype)
        found = pc.index_in(flat, value_set=self._known.cast(flat.type))
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        if self.is_label and found.null_count:
            unknown = found.is_null().to_numpy(zero_copy_only=False)
            bad = np.bincount(row_of[unknown], minlength=len(lengths)) > 0
            refuse(self.name, column, bad, f"label is not among the {self.size} classes kept from the train split")
        if self.output == "ids":
            codes = found.fill_null(UNKNOWN - 2).to_numpy() + np.int32(2)
            return _first_values(codes, lengths, self.length or 0)
        offset = 0 if self.is_label else 1
        encoded = np.zeros((len(lengths), self.size), np.float32)
        encoded[row_of, found.fill_null(-offset).to_numpy() + offset] = 1.0
        return encoded


def _first_values(codes: np.ndarray, lengths: np.ndarray, length: int) -> np.ndarray:
    """Return the first `length` codes of each row, padded: int32 (rows, length)."""
    encoded = np.full((len(lengths), length), PAD, np.int32)
    position = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    encoded[np.arange(length) < lengths[:, None]] = codes[position < length]
    return encoded
