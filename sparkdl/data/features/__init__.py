"""Features: declared once, encoded by the same code in prepare and in scoring.

Imported on the driver, in Spark workers and in ranks; needs numpy and pyarrow alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sparkdl.data.features.categorical import Categorical, CategoricalEncoder
from sparkdl.data.features.feature import Encoder, Feature
from sparkdl.data.features.numeric import Numeric, NumericEncoder
from sparkdl.data.features.tensor import Tensor, TensorEncoder
from sparkdl.errors import ConfigError, DatasetError, near_miss, shown

__all__ = ["Categorical", "Encoder", "Feature", "Numeric", "Tensor", "as_feature", "encoder_from_json"]

_DECLARED: dict[str, Any] = {"numeric": Numeric, "categorical": Categorical, "tensor": Tensor}
_FITTED: dict[str, Any] = {"numeric": NumericEncoder, "categorical": CategoricalEncoder, "tensor": TensorEncoder}


def as_feature(declared: object) -> Feature:
    """A feature from itself, from a bare column name (a `Tensor`), or from a YAML mapping `{numeric: age, fill: mean}`.

    Raises ConfigError for anything else, with the near miss of a misspelt kind or option.
    """
    if isinstance(declared, str) and declared:
        return Tensor(declared)
    if isinstance(declared, Feature) and not isinstance(declared, type):
        return declared
    if isinstance(declared, Mapping):
        return _from_mapping(dict(declared))
    raise ConfigError(f"{shown(declared)} is no feature; use Numeric, Categorical, Tensor or a column's name")


def _from_mapping(options: dict[str, Any]) -> Feature:
    kinds = [key for key in options if key in _DECLARED]
    if len(kinds) != 1:
        wrong = next((str(key) for key in options), "")
        raise ConfigError(
            f"feature {shown(options)} must name one kind, as in {{numeric: age}}" + near_miss(wrong, _DECLARED)
        )
    kind = kinds[0]
    name = options.pop(kind)
    declared = _DECLARED[kind]
    known = {f.name for f in dataclasses.fields(declared)} - {"name", "_"}
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option {option!r} of {kind} feature {name!r}{near_miss(str(option), known)}")
    return declared(name, **options)


def encoder_from_json(content: dict[str, Any]) -> Encoder:
    """The encoder that a manifest or a signature describes."""
    kind = content.get("kind")
    if kind not in _FITTED:
        raise DatasetError(f"encoder of kind {shown(kind)} is not known to this version of sparkdl; update it")
    return _FITTED[kind].from_json(content)
