"""Declare features once, and encode them by the same code in prepare and in scoring.

Imported on the driver, in Spark workers and in ranks; imports only numpy and pyarrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sparkdl.checks import check_options
from sparkdl.data.features.categorical import Categorical, CategoricalEncoder
from sparkdl.data.features.categories import Categories, CategoriesEncoder
from sparkdl.data.features.feature import Encoder, Feature
from sparkdl.data.features.image import Image, ImageEncoder
from sparkdl.data.features.numeric import Numeric, NumericEncoder
from sparkdl.data.features.tensor import Tensor, TensorEncoder
from sparkdl.data.features.text import Text, TextEncoder
from sparkdl.errors import ConfigError, DatasetError, near_miss, shown

__all__ = [
    "Categorical",
    "Categories",
    "Encoder",
    "Feature",
    "Image",
    "Numeric",
    "Tensor",
    "Text",
    "as_feature",
    "encoder_from_json",
]

# By kind: the class that users declare, and the class of the encoder fitted from it.
_KINDS: dict[str, tuple[Any, Any]] = {
    "numeric": (Numeric, NumericEncoder),
    "categorical": (Categorical, CategoricalEncoder),
    "categories": (Categories, CategoriesEncoder),
    "text": (Text, TextEncoder),
    "image": (Image, ImageEncoder),
    "tensor": (Tensor, TensorEncoder),
}


def as_feature(declared: object) -> Feature:
    """Return a feature as it is, or make one of a column name (`Tensor`) or a mapping `{numeric: age, fill: mean}`.

    Raises ConfigError for anything else, with the near miss of a misspelt kind or option.
    """
    if isinstance(declared, str) and declared:
        return Tensor(declared)
    if isinstance(declared, Feature) and not isinstance(declared, type):
        return declared
    if isinstance(declared, Mapping):
        return _from_mapping(dict(declared))
    kinds = ", ".join(kind.capitalize() for kind in _KINDS)
    raise ConfigError(f"{shown(declared)} is not a feature; use {kinds} or a column's name")


def _from_mapping(options: dict[str, Any]) -> Feature:
    kinds = [key for key in options if key in _KINDS]
    if len(kinds) != 1:
        wrong = next((str(key) for key in options), "")
        raise ConfigError(
            f"feature {shown(options)} must name one kind, as in {{numeric: age}}" + near_miss(wrong, _KINDS)
        )
    kind = kinds[0]
    column = options.pop(kind)
    several = kind == "numeric" and isinstance(column, (list, tuple))
    if not several and not (isinstance(column, str) and column):
        raise ConfigError(f"{kind} feature {shown(column)} must be the name of a column")
    declared = _KINDS[kind][0]
    positional = "columns" if kind == "numeric" else "name"
    known = {f.name: f.default for f in dataclasses.fields(declared) if f.name not in (positional, "_")}
    check_options(options, known, f"{kind} feature {shown(column)}: ")
    for option, default in known.items():
        if default is dataclasses.MISSING and option not in options:
            raise ConfigError(f"{kind} feature {column!r} needs the option {option!r}")
    return declared(column, **options)


def encoder_from_json(content: dict[str, Any]) -> Encoder:
    """Make the encoder that a manifest or a signature describes."""
    kind = content.get("kind")
    if kind not in _KINDS:
        raise DatasetError(f"encoder of kind {shown(kind)} is not known to this version of sparkdl; update it")
    return _KINDS[kind][1].from_json(content)
