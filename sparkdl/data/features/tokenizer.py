"""Split texts into tokens by the user's function, named as "module:function".

Runs in Spark workers and beside the model, wherever text is encoded; the module must be importable there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from sparkdl.data.features.bad_values import bad_rows
from sparkdl.errors import ConfigError, SchemaError, near_miss, shown

__all__ = ["load_tokenizer", "tokens"]


@functools.cache
def load_tokenizer(name: str) -> Callable[[str], Sequence[str]]:
    """Import a function named as "module:function". Raises ConfigError if it is not found."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError(f"tokenizer={shown(name)} must have the form module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tokenizer={shown(name)}: {error}; install the module on every host, or send it by --py-files"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        hint = near_miss(function_name, (known for known, value in vars(module).items() if callable(value)))
        raise ConfigError(f"tokenizer={shown(name)}: module {module_name} has no such function{hint}")
    return function


def tokens(texts: pa.Array, *, name: str, tokenizer: str) -> tuple[pa.Array, np.ndarray]:
    """Return the tokens of all texts in turn, strings, and their number in each row: int64, shape ``(rows,)``.

    Raises SchemaError that names the first row whose text the tokenizer fails at, or of which it makes something else
    than strings.
    """
    split = load_tokenizer(tokenizer)
    rows: list[Sequence[str]] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            found = split(text)
        except Exception as error:
            problem = f"tokenizer {tokenizer} fails with {type(error).__name__}: {shown(str(error))}"
            raise bad_rows(name, texts, {row: problem}) from error
        if isinstance(found, (str, bytes)) or not all(isinstance(token, str) for token in found):
            problem = f"tokenizer {tokenizer} returned {shown(found)}, which is not a list of strings,"
            raise bad_rows(name, texts, {row: problem})
        rows.append(list(found))
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    try:
        return pa.array([token for row in rows for token in row], pa.string()), lengths
    except UnicodeEncodeError as error:
        raise SchemaError(f"column {name!r}: tokenizer {tokenizer} returned half a character: {error}") from error
