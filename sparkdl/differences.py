"""Find where two JSON values differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparkdl.errors import shown

__all__ = ["first_difference"]


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Describe the first difference of two JSON values, as `config.seed was 1, is 2`; None if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                return f"{inner} {'is new' if key not in old else 'is gone'}"
            if found := first_difference(old[key], new[key], inner):
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        differences = (first_difference(one, other, f"{path}[{index}]") for index, (one, other) in pairs)
        return next((difference for difference in differences if difference), None)
    return None if old == new else f"{path} was {shown(old)}, is {shown(new)}"
