"""Pickle the task that a run sends to every rank, and name the part that is too large or does not pickle.

Pure; called on the driver before anything runs.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, MethodType
from typing import Any

import cloudpickle

from sparkdl.errors import ConfigError, shown

__all__ = ["MAX_CLOSURE_BYTES", "largest_part", "pickled_task"]

MAX_CLOSURE_BYTES = 10 * 2**20
# The parts of a longer list are not examined one by one: no single one of them can be the mistake.
MAX_ITEMS = 100
MAX_DEPTH = 20
# Characters of the error that pickling an object raised.
MAX_REASON = 160
# The attributes that are sent of objects which are not made of others by their `__dict__`.
SENT = {functools.partial: ("func", "args", "keywords"), MethodType: ("__self__",)}
SENT |= dict.fromkeys((staticmethod, classmethod), ("__func__",))

_Part = tuple[str, Any]
"""The path of an object within the task, and the object."""


def pickled_task(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, limit: int = MAX_CLOSURE_BYTES
) -> bytes:
    """Pickle the function with its arguments.

    Raises ConfigError if they do not pickle, or take more than `limit` bytes; the error names the part to blame.
    """
    try:
        task = bytes(cloudpickle.dumps((fn, args, kwargs)))
    except Exception as error:  # any type: it is the user's objects that refuse
        raise ConfigError(_refusal(fn, args, kwargs, error)) from error
    if len(task) <= limit:
        return task
    size = len(task)
    del task  # not twice in memory while its parts are looked at
    path, largest = largest_part(fn, args, kwargs)
    raise ConfigError(
        f"{_name(fn)} and its arguments are {_megabytes(size)}, over the limit of {limit / 2**20:g} MB for what is "
        f"sent to each rank; the largest part is {path} ({_megabytes(largest)}): load it inside the function, or "
        "write it to a path that all ranks read"
    )


def largest_part(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, int]:
    """Find the object that takes most bytes; return its path and its pickled size in bytes.

    The search begins at the largest of the arguments and of the parts that the function holds, and goes down as long
    as one part carries at least half of it.
    """
    own, _ = _pickled(fn)
    # A part that is larger than its whole is not sent with the whole: a module's function takes nothing along.
    held = [part for part in _parts((_name(fn), fn)) if part[1] is not fn and 0 < _pickled(part[1])[0] <= own]
    first = max([*(held or [(_name(fn), fn)]), *_arguments(args, kwargs)], key=lambda part: _pickled(part[1])[0])
    most, _ = _pickled(first[1])
    path, part = _innermost([first], lambda part: most <= 2 * _pickled(part)[0] <= 2 * most + 200) or first
    return path, _pickled(part)[0]


def _refusal(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> str:
    found = _innermost([(_name(fn), fn), *_arguments(args, kwargs)], lambda part: _pickled(part)[1] is not None)
    if found is None:
        return f"{_name(fn)} and its arguments cannot be sent to the ranks: {_line(error)}"
    path, part = found
    if _is_spark(part):
        way_out = "ranks have no Spark: keep it out of the function, and read rows from the dataset"
    else:
        way_out = "make it inside the function, in every rank"
    kind = f"{type(part).__module__}.{type(part).__qualname__}"
    return f"{path}, a {kind}, cannot be sent to the ranks ({_line(_pickled(part)[1])}); {way_out}"


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[_Part]:
    positional = [(f"args[{i}]", value) for i, value in enumerate(args)]
    return positional + [(f"kwargs[{shown(name)}]", value) for name, value in kwargs.items()]


def _innermost(parts: Sequence[_Part], is_blamed: Callable[[Any], bool]) -> _Part | None:
    """Return the first part to blame, and of its parts again the first, down to the innermost; None without any."""
    found: _Part | None = None
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        blamed = next((part for part in parts if id(part[1]) not in seen and is_blamed(part[1])), None)
        if blamed is None:
            break
        found, parts = blamed, _parts(blamed)
        seen.add(id(blamed[1]))
    return found


class _Count:
    """Count the bytes that pickling writes, without keeping them: `write` is all that it needs of a file."""

    total = 0

    def write(self, content: Any) -> None:
        self.total += memoryview(content).nbytes


def _pickled(part: Any) -> tuple[int, Exception | None]:
    """Return the pickled size of an object in bytes, or 0 and the error if the object does not pickle alone."""
    count = _Count()
    try:
        cloudpickle.dump(part, count)
    except Exception as error:  # any type: the user's objects refuse as they like
        return 0, error
    return count.total, None


def _parts(whole: _Part) -> list[_Part]:
    """Return the parts of an object that are sent with it; nothing for long lists, and for Spark's objects."""
    path, value = whole
    if _is_spark(value) or (isinstance(value, (dict, list, tuple)) and len(value) > MAX_ITEMS):
        return []
    if isinstance(value, FunctionType):
        return [(f"{value.__name__}'s {what}", part) for what, part in _parts_of_function(value)][:MAX_ITEMS]
    if isinstance(value, dict):
        return [(f"{path}[{shown(key)}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"{path}[{i}]", part) for i, part in enumerate(value)]
    own_class = [] if isinstance(value, (type, *SENT)) else [(type(value).__qualname__, type(value))]
    return [*((f"{path}.{name}", part) for name, part in _attributes(value).items()), *own_class][:MAX_ITEMS]


def _parts_of_function(fn: FunctionType) -> Iterator[_Part]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield f"variable {name!r}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    positional = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    defaults = zip(positional[::-1], (fn.__defaults__ or ())[::-1], strict=False)
    yield from ((f"default of {name!r}", value) for name, value in (*defaults, *(fn.__kwdefaults__ or {}).items()))
    for name in sorted(_global_names(fn.__code__) & fn.__globals__.keys()):
        yield f"global {name!r}", fn.__globals__[name]


def _global_names(code: CodeType) -> set[str]:
    """Return the globals that a code and the codes within it load; `inspect.getclosurevars` does not look within."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_global_names(nested) for nested in code.co_consts if isinstance(nested, CodeType)))


def _attributes(whole: Any) -> dict[str, Any]:
    """Return the fields or attributes that pickling takes from an object; nothing where its class defines pickling."""
    kind = type(whole)
    if kind in SENT:
        return {name: getattr(whole, name) for name in SENT[kind]}
    if isinstance(whole, type):
        return {name: part for name, part in vars(whole).items() if not name.startswith("__")}
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(whole, field.name, None) for field in dataclasses.fields(kind)}
    rules = ("__reduce__", "__reduce_ex__", "__getstate__")
    if any(getattr(kind, rule, None) != getattr(object, rule, None) for rule in rules):
        return {}
    return dict(getattr(whole, "__dict__", {}))


def _is_spark(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("pyspark", "py4j")


def _line(error: Exception | None) -> str:
    return " ".join(str(error).split())[:MAX_REASON]


def _name(fn: Callable[..., Any]) -> str:
    # Never the repr: the repr of a partial holds all its arguments.
    if isinstance(fn, functools.partial):
        return f"partial({_name(fn.func)})"
    return getattr(fn, "__qualname__", type(fn).__qualname__)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
