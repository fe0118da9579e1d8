"""List the parts by which an object of a running process counts in a fingerprint.

Code in a model refers to objects: a configuration, a table of weights, a set of names. Values count by their content.
Objects whose state belongs to the process, as a lock, a thread or a random generator, count by their class.
"""

from __future__ import annotations

import copyreg
import functools
from types import MemberDescriptorType
from typing import Any

import numpy as np

__all__ = ["own_parts", "value_parts"]

# Modules of the standard library whose objects are values: what pickling takes of them is the same in each process.
_VALUES = {
    *("argparse", "builtins", "collections", "datetime", "decimal", "enum", "fractions", "functools", "ipaddress"),
    *("pathlib", "re", "string", "types", "zoneinfo"),
}
_BASES: tuple[type[Any], ...] = (dict, list, tuple, set, frozenset, int, float, complex, str, bytes)


def own_parts(value: Any) -> dict[str, Any]:
    """List what an object of a user's class holds: its attributes, its slots, and the content of its built-in base.

    A value that `functools.cached_property` keeps follows from the rest, and may not be there yet: it is left out.
    """
    kind = type(value)
    parts = {
        name: part
        for name, part in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }
    for class_ in kind.__mro__:
        slots = [name for name, part in vars(class_).items() if isinstance(part, MemberDescriptorType)]
        parts |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
    base = next((base for base in _BASES if isinstance(value, base)), None)
    return parts if base is None else parts | {"content": base(value)}


def value_parts(value: Any) -> list[Any] | None:
    """List what a library's object holds, if it is a value: of Python's own kinds, an array, or a table; else None."""
    kind = type(value)
    library = kind.__module__.split(".")[0]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, value.tolist()]
    if library == "pandas" and (hasattr(kind, "iloc") or hasattr(kind, "array")):
        return _table_parts(value)
    if not (library in (*_VALUES, "pandas") or kind.__module__ == "numpy" or kind.__name__ == "EagerTensor"):
        return None
    try:
        reduced = copyreg.dispatch_table[kind](value) if kind in copyreg.dispatch_table else value.__reduce_ex__(4)
    except Exception:  # any type: an object that refuses, as a generator or an open file
        return None
    if isinstance(reduced, str):
        return [kind.__module__, reduced]
    return [part if place < 3 or part is None else list(part) for place, part in enumerate(reduced[:5])]


def _table_parts(value: Any) -> list[Any]:
    """List the parts of a pandas table, series or index: types and names, and a hash of each row.

    pandas hashes a million rows in about a second, and alike in every process.
    """
    import pandas as pd

    columns = list(value.columns) if hasattr(type(value), "columns") else [value.name]
    types = [str(dtype) for dtype in (value.dtypes if hasattr(type(value), "columns") else [value.dtype])]
    try:
        return [types, columns, pd.util.hash_pandas_object(value).to_numpy()]
    except TypeError:  # of objects without a hash, as lists
        return [types, columns, value.to_numpy().tolist()]
