"""Match a function's arguments to the inputs of the model, by their order or by the fields of one struct.

Pure; the number of arguments is checked on the driver where it can be, the rest in Spark workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sparkdl.data.features import Encoder
from sparkdl.errors import SchemaError, near_miss
from sparkdl.model.signature import Signature

__all__ = ["arguments_by_input", "check_order", "count_error", "field_places"]


def arguments_by_input(arguments: Sequence[pa.Array], signature: Signature) -> list[pa.Array]:
    """Return the raw column of each of the model's inputs, in order, from the arguments of an SQL or column function.

    One struct for all inputs is taken apart by the names of its fields; all fields of a null struct are null. A model
    with one input takes a struct as that input's own value where the input's encoder does (ML vectors, images).

    Raises SchemaError for another number of arguments, and for a struct whose fields are not the model's inputs.
    """
    names = signature.input_names
    if len(arguments) == 1 and pa.types.is_struct(arguments[0].type):
        struct = arguments[0]
        given = [field.name for field in struct.type]
        alone = len(names) == 1 and (_takes(signature.inputs[0], struct.type) or names[0].lower() not in _lower(given))
        if not alone:
            fields = struct.flatten()
            return [fields[index] for index in field_places(struct.type, names)]
    if len(arguments) != len(names):
        raise count_error(names, len(arguments))
    return list(arguments)


def count_error(names: Sequence[str], given: int) -> SchemaError:
    """Build the error for another number of arguments than the model has inputs."""
    one = "" if len(names) == 1 else f", or one struct that names them: struct({', '.join(names)})"
    return SchemaError(
        f"the model takes {len(names)} columns ({', '.join(names)}), {given} were given; give them in this order{one}"
    )


def check_order(names: Sequence[str], given: Sequence[Any]) -> None:
    """Raise SchemaError if a column is given for one input and has the name of another input.

    As for Spark, upper and lower case make no difference, unless the model's inputs differ in nothing else. Columns
    that are not names pass.
    """
    tells_case = len(set(_lower(names))) < len(names)
    keys = list(names) if tells_case else _lower(names)
    for key, name, column in zip(keys, names, given, strict=True):
        own = column if tells_case or not isinstance(column, str) else column.lower()
        if isinstance(own, str) and own != key and own in keys:
            raise SchemaError(
                f"the columns {', '.join(map(str, given))} are in another order than the model's inputs "
                f"({', '.join(names)}): {column!r} stands for {name!r}; if that is meant, give F.col({column!r})"
            )


def field_places(struct: pa.StructType, names: Sequence[str]) -> list[int]:
    """Return the index of each of the model's inputs among the fields of a struct.

    As for Spark, upper and lower case make no difference, unless two names differ in nothing else.

    Raises SchemaError for a field that is missing, occurs twice, or is not an input of the model.
    """
    given = [field.name for field in struct]
    tells_case = any(len(set(_lower(some))) < len(set(some)) for some in (given, names))
    keys, wanted = (list(some) if tells_case else _lower(some) for some in (given, names))
    missing = [name for name, key in zip(names, wanted, strict=True) if key not in keys]
    extra = [name for name, key in zip(given, keys, strict=True) if key not in wanted]
    twice = [name for name, key in zip(given, keys, strict=True) if keys.count(key) > 1]
    problems = [f"{name!r} is missing{near_miss(name, extra) if extra else ''}" for name in missing[:1]]
    problems += [f"{name!r} is not an input of the model{near_miss(name, names)}" for name in extra[:1]]
    problems += [f"{name!r} is there {twice.count(name)} times" for name in twice[:1]]
    if not problems:
        return [keys.index(key) for key in wanted]
    inner = next((f.name for f in struct if f.name in extra and pa.types.is_struct(f.type)), None)
    hint = f"; take {inner!r} apart with {inner}.*" if inner is not None else ""
    way_out = ", ".join(f"'{name}', …" for name in names)
    raise SchemaError(
        f"the struct has the fields {', '.join(given)[:200]}, the model takes {', '.join(names)[:200]}: "
        f"{'; '.join(problems)}{hint}; name them, as in named_struct({way_out[:200]})"
    )


def _lower(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]


def _takes(encoder: Encoder, type_: pa.DataType) -> bool:
    """Tell whether an encoder takes values of this type at all."""
    try:
        encoder.encode(pa.array([], type_))
    except SchemaError:
        return False
    return True
