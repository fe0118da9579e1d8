"""Fit an encoder for each feature to the train split.

Runs on the driver; `statistics` computes in Spark what the encoders need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparkdl.data.features import Categorical, Categories, Encoder, Feature, Image, Numeric, Tensor, Text
from sparkdl.data.features.categorical import CategoricalEncoder, as_categories
from sparkdl.data.features.categories import CategoriesEncoder, check_arrays
from sparkdl.data.features.column_types import is_nested, unit_of
from sparkdl.data.features.columns import infer_shape
from sparkdl.data.features.feature import StoredEncoder
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.moments import Moments
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.features.text import TextEncoder, check_text
from sparkdl.data.prepare import statistics
from sparkdl.data.prepare.row_sums import Seen
from sparkdl.data.prepare.statistics import VOCABULARY_LIMIT, NumberColumn
from sparkdl.errors import ConfigError, SchemaError
from sparkdl.spark.columns import column

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["Fitted", "fit_encoders"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Hold the encoders of the features, then of the labels, and the row sums that each pass saw."""

    encoders: tuple[Encoder, ...]
    seen: tuple[Seen, ...]


def fit_encoders(train: DataFrame, features: Sequence[Feature], labels: Sequence[Feature]) -> Fitted:
    """Fit the encoders of all features, then of all labels, over the train split's raw rows; fitted ones stay.

    Raises:
        ConfigError: a feature that cannot be a label.
        SchemaError: a column's type or content does not fit its feature.
    """
    declared = [*features, *labels]
    for label in labels:
        if isinstance(label, Numeric) and label.fill == "indicator":
            wrong = "fill='indicator' makes two numbers of one; drop rows without a label"
            raise ConfigError(f"label {label.name!r}: {wrong}")
        if isinstance(label, Categorical) and label.missing == "category":
            wrong = "missing='category' is for inputs; Categorical(…, fill=…) names the class of missing labels"
            raise ConfigError(f"label {label.name!r}: {wrong}")
        if isinstance(label, Categories) and label.output == "ids":
            raise ConfigError(f"label {label.name!r}: output='ids' is for inputs; use Categories(…), multi-hot")
        if isinstance(label, Image) and label.store == "encoded":
            raise ConfigError(f"label {label.name!r}: store='encoded' is for inputs; use Image(…, store='pixels')")
    first = _first_values(train, declared)
    counted = [f for f in declared if isinstance(f, (Categorical, Categories, Text))]
    for vocabulary in counted:
        none = first[vocabulary.name][:0]
        if isinstance(vocabulary, Text):
            check_text(none, name=vocabulary.name)
        elif isinstance(vocabulary, Categories):
            check_arrays(none, name=vocabulary.name)
        else:
            as_categories(none, name=vocabulary.name, fill=vocabulary.fill)
    numbers = _number_columns([f for f in declared if isinstance(f, Numeric)], first)
    with_median = {f.name for f in declared if isinstance(f, Numeric) and f.fill == "median"}
    seen: list[Seen] = []
    moments: dict[str, Moments] = {}
    medians: dict[str, np.ndarray] = {}
    pairs: Iterator[list[tuple[Any, int]]] = iter(())
    if numbers:
        moments, saw = statistics.moments(train, list(numbers.values()))
        seen.append(saw)
    if with_median:
        medians, saw = statistics.medians(train, [numbers[name] for name in sorted(with_median)])
        seen.append(saw)
    if counted:
        found, saw = statistics.frequencies(train, counted)
        pairs = iter(found)
        seen.append(saw)
    fitted: list[Encoder] = []
    for index, feature in enumerate(declared):
        name = feature.name
        if isinstance(feature, StoredEncoder):
            fitted.append(feature)  # type: ignore[arg-type]  # each of its subclasses is an Encoder
        elif isinstance(feature, Tensor):
            fitted.append(TensorEncoder.fit(feature, first[name]))
        elif isinstance(feature, Numeric):
            unit, median = numbers[name].unit, medians.get(name)
            fitted.append(NumericEncoder.fit(feature, moments[name], median=median, unit=unit))
        elif isinstance(feature, Image):
            fitted.append(ImageEncoder.fit(feature, first[name].type))
        elif isinstance(feature, Text):
            fitted.append(TextEncoder.fit(feature, next(pairs)))
        elif isinstance(feature, (Categorical, Categories)):
            fitted.append(_categorical(feature, next(pairs), is_label=index >= len(features)))
        else:
            raise ConfigError(f"{feature!r} is not a feature that prepare knows")
    return Fitted(tuple(fitted), tuple(seen))


def _first_values(train: DataFrame, declared: Sequence[Feature]) -> dict[str, pa.Array]:
    """Read one row of each column, for its type and shape; a row that is not null where an array's shape is needed."""
    first = statistics.first_row(train, [f.name for f in declared])
    for feature in declared:
        value = first[feature.name]
        if isinstance(feature, Numeric) and feature.fill is not None and is_nested(value.type) and value.null_count:
            first |= statistics.first_row(train.where(column(feature.name).isNotNull()), [feature.name])
    return first


def _number_columns(features: Sequence[Numeric], first: dict[str, pa.Array]) -> dict[str, NumberColumn]:
    """Describe each column of numbers; a column that is feature and label may have missing values if either fills."""
    filled = {f.name for f in features if f.fill is not None}
    numbers: dict[str, NumberColumn] = {}
    for feature in features:
        name, value = feature.name, first[feature.name]
        shape = infer_shape(value, name=name) if is_nested(value.type) else ()
        if shape and feature.fill == "indicator":
            raise SchemaError(
                f"column {name!r}: fill='indicator' is for scalars and rows are of shape {shape}; use 'mean', "
                "'median' or a number, or select its elements as separate columns"
            )
        numbers[name] = NumberColumn(name, shape, unit_of(value.type), name in filled, tuple(feature.columns))
    return numbers


def _categorical(
    feature: Categorical | Categories, pairs: Sequence[tuple[Any, int]], *, is_label: bool
) -> CategoricalEncoder | CategoriesEncoder:
    if feature.max_size is None and len(pairs) > VOCABULARY_LIMIT:
        raise SchemaError(
            f"column {feature.name!r} has more than {VOCABULARY_LIMIT} values in the train split; is it an id? "
            f"{type(feature).__name__}(max_size=…) keeps the most frequent"
        )
    if isinstance(feature, Categories):
        return CategoriesEncoder.fit(feature, pairs, is_label=is_label)
    return CategoricalEncoder.fit(feature, pairs, is_label=is_label)
