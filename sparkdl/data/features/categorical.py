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

from sparkdl.checks import named_options, require_whole
from sparkdl.data.features.bad_values import check_no_nulls, refuse
from sparkdl.data.features.columns import as_array
from sparkdl.data.features.feature import Stored, StoredEncoder
from sparkdl.errors import SchemaError, shown

__all__ = ["Categorical", "CategoricalEncoder", "as_categories", "most_frequent"]


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

    def __post_init__(self) -> None:
        if self.max_size is not None:
            require_whole(f"Categorical({self.name!r}): max_size", self.max_size)
        require_whole(f"Categorical({self.name!r}): min_count", self.min_count)


def as_categories(column: pa.Array, *, name: str) -> pa.Array:
    """Return a column as strings or int64, the types of categories. Raises SchemaError for other types and nulls."""
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
    check_no_nulls(name, column, "give missing values a separate category, or drop such rows")
    try:
        return column.cast(pa.int64()) if is_whole else column
    except pa.ArrowInvalid as error:
        raise SchemaError(f"column {name!r}: whole numbers as categories must fit into 64 bits: {error}") from error


def most_frequent(name: str, counted: Sequence[tuple[Any, int]], *, max_size: int | None, min_count: int) -> list[Any]:
    """Sort the values of (value, count) pairs by frequency, ties by value. Raises SchemaError if all are too rare."""
    kept = [(value, count) for value, count in counted if count >= min_count]
    if not kept:
        raise SchemaError(f"column {name!r}: no value comes {min_count} times in the train split; lower min_count")
    return [value for value, _ in sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:max_size]]


@dataclass(frozen=True)
class CategoricalEncoder(StoredEncoder):
    """Encode a column by the vocabulary of a fitted `Categorical`.

    Attributes:
        vocabulary: the known values in the order of their codes.
        is_label: codes start at 0 and an unknown value is an error; else codes start at 1 and an unknown value is 0.
    """

    kind: ClassVar[str] = "categorical"
    dtype: ClassVar[np.dtype] = np.dtype(np.int32)
    shape: ClassVar[tuple[int, ...]] = ()
    stored: ClassVar[Stored] = "values"

    name: str
    vocabulary: tuple[str | int, ...]
    is_label: bool

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
        return cls(feature.name, tuple(sorted(values) if is_label else values), is_label)

    @property
    def size(self) -> int:
        """The number of codes: the `input_dim` of an embedding, or the number of classes of a label."""
        return len(self.vocabulary) + (0 if self.is_label else 1)

    @cached_property
    def _known(self) -> pa.Array:
        # An Arrow array of 20,000 strings takes a millisecond to make: once for an encoder, not for every batch.
        text = bool(self.vocabulary) and isinstance(self.vocabulary[0], str)
        return pa.array(self.vocabulary, type=pa.string() if text else pa.int64())

    def encode(self, column: pa.Array) -> np.ndarray:
        column = as_array(column)
        if not len(column) and pa.types.is_null(column.type):
            return np.empty(0, np.int32)
        values = as_categories(column, name=self.name)
        if pa.types.is_int64(values.type) != pa.types.is_int64(self._known.type):
            raise SchemaError(
                f"column {self.name!r} was {self._known.type} when it was fitted and is {column.type} now"
            )
        codes = pc.index_in(values, value_set=self._known.cast(values.type))
        if self.is_label and codes.null_count:
            bad = codes.is_null().to_numpy(zero_copy_only=False)
            refuse(self.name, column, bad, "label unseen in the train split")
        offset = 0 if self.is_label else 1
        return codes.fill_null(-offset).to_numpy() + np.int32(offset)
