"""Encode categories as whole numbers, by a vocabulary of the train split.

Declared on the driver, fitted over the train split in Spark, encoded in Spark workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.checks import named_options, require, require_whole
from sparkdl.data.features.bad_values import check_no_nulls, check_utf8, refuse
from sparkdl.data.features.columns import as_array
from sparkdl.data.features.feature import Stored, StoredEncoder, added
from sparkdl.errors import SchemaError, shown

__all__ = ["Categorical", "CategoricalEncoder", "as_categories", "known_values", "most_frequent"]


@named_options
@dataclass(frozen=True, slots=True)
class Categorical:
    """Declare strings, whole numbers or booleans, encoded as int32: 1 is the most frequent, 0 is out of vocabulary.

    A label's codes are 0 … classes - 1 in sorted order, no out-of-vocabulary slot; a value unseen in train is an error.
    Raises ConfigError for a size below 1.
    """

    kind: ClassVar[str] = "categorical"

    name: str
    _: KW_ONLY

    max_size: int | None = None
    """Keep at most this many values, the most frequent; ties go to the smaller value. None keeps all."""

    min_count: int = 1
    """Keep values that the train split has at least this often."""

    fill: str | int | None = added(None)
    """The value that stands for null, a string or a whole number as the column's are; it may be a category of the
    column, or another. None: null is an error, or a category (see `missing`)."""

    missing: str = added("error")
    """"error": null is an error without `fill`. "category": null has the last code of all, also where the train split
    has no null; `min_count` and `max_size` do not count it. For inputs only."""

    def __post_init__(self) -> None:
        where = f"Categorical({self.name!r})"
        good = self.fill is None or isinstance(self.fill, (str, int))
        require(good, f"{where}: fill={shown(self.fill)} must be a string, a whole number or None")
        good = self.missing in ("error", "category")
        require(good, f"{where}: missing={shown(self.missing)} must be 'error' or 'category'")
        good = self.fill is None or self.missing == "error"
        require(good, f"{where}: fill={shown(self.fill)} and missing='category' both name what null is; use one")
        if self.max_size is not None:
            require_whole(f"Categorical({self.name!r}): max_size", self.max_size)
        require_whole(f"Categorical({self.name!r}): min_count", self.min_count)


def as_categories(column: pa.Array, *, name: str, fill: str | int | None = None, nulls: bool = False) -> pa.Array:
    """Return a column as strings or int64, the types of categories.

    Args:
        fill: the value that stands for null.
        nulls: True keeps nulls.

    Raises SchemaError for other types, for nulls without a policy, for a fill of another type than the column, and for
    strings that are not UTF-8.
    """
    type_, types = column.type, pa.types
    is_whole = types.is_integer(type_) or types.is_boolean(type_)
    if not (is_whole or types.is_string(type_) or types.is_large_string(type_) or types.is_null(type_)):
        if types.is_date(type_) or types.is_timestamp(type_):
            way_out = "make a string or a whole number of them (date_format, year, dayofweek)"
        elif types.is_floating(type_) or types.is_decimal(type_):
            way_out = "cast them to strings or whole numbers, or take them as Numeric"
        else:
            way_out = "use strings or whole numbers"
        raise SchemaError(f"column {name!r}: values of type {type_!s:.80} cannot be categories; {way_out}")
    if fill is None and not nulls:
        check_no_nulls(name, column, "Categorical(fill=…), Categorical(missing='category'), or drop such rows")
    # A boolean is a number, and a column of nulls alone is of either type.
    if fill is not None and not types.is_null(type_) and isinstance(fill, str) == is_whole:
        raise SchemaError(f"column {name!r}: fill={shown(fill)} cannot stand for null in a column of {type_!s:.80}")
    try:
        if types.is_null(type_):
            column = column.cast(pa.int64() if isinstance(fill, int) else pa.string())
        elif is_whole:
            column = column.cast(pa.int64())
        else:
            check_utf8(name, column)
        return column if fill is None else column.fill_null(fill if isinstance(fill, str) else int(fill))
    except pa.ArrowInvalid as error:
        raise SchemaError(f"column {name!r}: whole numbers as categories must fit into 64 bits: {error}") from error


def most_frequent(name: str, counted: Sequence[tuple[Any, int]], *, max_size: int | None, min_count: int) -> list[Any]:
    """Sort the values of (value, count) pairs by frequency, ties by value. Raises SchemaError if all are too rare."""
    kept = [(value, count) for value, count in counted if count >= min_count]
    if not kept:
        raise SchemaError(f"column {name!r}: no value comes {min_count} times in the train split; lower min_count")
    return [value for value, _ in sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:max_size]]


def known_values(vocabulary: Sequence[str | int]) -> pa.Array:
    """Return a vocabulary as an Arrow array of strings or int64, in which `index_in` looks values up."""
    text = bool(vocabulary) and isinstance(vocabulary[0], str)
    return pa.array(vocabulary, type=pa.string() if text else pa.int64())


@dataclass(frozen=True)
class CategoricalEncoder(StoredEncoder):
    """Encode a column by the vocabulary of a fitted `Categorical`.

    Attributes:
        vocabulary: the known values in the order of their codes.
        is_label: codes start at 0 and an unknown value is an error; else codes start at 1 and an unknown value is 0.
        fill, missing: as in `Categorical`; with missing="category" null has the code `size` - 1.
    """

    kind: ClassVar[str] = "categorical"
    dtype: ClassVar[np.dtype] = np.dtype(np.int32)
    shape: ClassVar[tuple[int, ...]] = ()
    stored: ClassVar[Stored] = "values"

    name: str
    vocabulary: tuple[str | int, ...]
    is_label: bool
    fill: str | int | None = added(None)
    missing: str = added("error")

    @classmethod
    def fit(
        cls, feature: Categorical, counted: Sequence[tuple[str | int, int]], *, is_label: bool
    ) -> CategoricalEncoder:
        """Fit an encoder to (value, count) pairs of the train split.

        Raises SchemaError for a label with a single class.
        """
        values = most_frequent(feature.name, counted, max_size=feature.max_size, min_count=feature.min_count)
        if is_label and len(values) < 2:
            raise SchemaError(
                f"label {feature.name!r} has {len(values)} class in the train split ({shown(values)}); a "
                "classifier needs at least 2"
            )
        vocabulary = tuple(sorted(values) if is_label else values)
        return cls(feature.name, vocabulary, is_label, feature.fill, feature.missing)

    @property
    def size(self) -> int:
        """The number of codes: the `input_dim` of an embedding, or the number of classes of a label."""
        return len(self.vocabulary) + (0 if self.is_label else 1) + (1 if self.missing == "category" else 0)

    @cached_property
    def _known(self) -> pa.Array:
        # An Arrow array of 20,000 strings takes a millisecond to make: once for an encoder, not for every batch.
        return known_values(self.vocabulary)

    def encode(self, column: pa.Array) -> np.ndarray:
        column = as_array(column)
        if not len(column) and pa.types.is_null(column.type):
            return np.empty(0, np.int32)
        is_category = self.missing == "category"
        values = as_categories(column, name=self.name, fill=self.fill, nulls=is_category)
        if pa.types.is_null(column.type) and self.fill is None:
            values = values.cast(self._known.type)
        if pa.types.is_int64(values.type) != pa.types.is_int64(self._known.type):
            raise SchemaError(
                f"column {self.name!r} was {self._known.type} when it was fitted and is {column.type} now"
            )
        codes = pc.index_in(values, value_set=self._known.cast(values.type))
        if self.is_label and codes.null_count:
            bad = codes.is_null().to_numpy(zero_copy_only=False)
            refuse(self.name, column, bad, f"label is not among the {self.size} classes kept from the train split")
        offset = 0 if self.is_label else 1
        encoded = codes.fill_null(-offset).to_numpy() + np.int32(offset)
        if is_category and values.null_count:
            encoded[values.is_null().to_numpy(zero_copy_only=False)] = self.size - 1
        return encoded
