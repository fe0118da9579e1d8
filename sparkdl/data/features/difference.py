"""Compare encoders by the values that they give. Pure; used on the driver and in ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sparkdl.data.features.feature import Encoder
from sparkdl.differences import first_difference

__all__ = ["encoder_difference"]

# The parameters of a numeric encoder that its scale does not use.
_NOT_THE_SCALE = {"standardize": ("low", "high"), "minmax": ("mean", "std"), "none": ("mean", "std", "low", "high")}


def encoder_difference(one: Encoder, other: Encoder) -> str | None:
    """Describe the first difference in the values that two encoders give, as `age.mean was 1, is 2`; None: equal."""
    return first_difference(*_values(one.to_json(), other.to_json()), one.name)


def _values(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parts of two encoders that determine their values; a fill that only one has is left out."""
    left_out = {"store", "column_shape"} | ({"fill"} if None in (old.get("fill"), new.get("fill")) else set())
    if old["kind"] == new["kind"] == "numeric" and old["scale"] == new["scale"]:
        left_out |= set(_NOT_THE_SCALE[old["scale"]])
    one, other = ({k: v for k, v in encoder.items() if k not in left_out} for encoder in (old, new))
    return json.loads(json.dumps(one)), json.loads(json.dumps(other))  # as JSON, lists and tuples are equal
