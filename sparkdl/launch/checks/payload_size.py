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
# The search for the largest part may pickle this many times the bytes of the whole: a path has few steps, and each
# step pickles at most the whole.
MAX_WORK = 10


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


def _refusal(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> str:
    found = unsendable_part(fn, args, kwargs)
    if found is None:
        return f"{_name(fn)} and its arguments cannot be sent to the ranks: {_line(error)}"
    path, part, why = found
    kind = f"{type(part).__module__}.{type(part).__qualname__}"
    if _is_spark(part):
        way_out = "ranks have no Spark: keep it out of the function, and read rows from the dataset"
    else:
        way_out = "make it inside the function, in every rank"
    return f"{path}, a {kind}, cannot be sent to the ranks ({_line(why)}); {way_out}"


def unsendable_part(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, Any, Exception] | None:
    """Find the innermost object that does not pickle: path, object and error; None if each part pickles alone."""
    parts = [(_name(fn), fn), *((f"args[{i}]", value) for i, value in enumerate(args))]
    parts += [(f"kwargs[{shown(name)}]", value) for name, value in kwargs.items()]
    found: tuple[str, Any, Exception] | None = None
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        refused = None
        for path, part in parts:
            why = None if id(part) in seen else _why_not(part)
            if why is not None:
                refused = (path, part, why)
                break
        if refused is None:
            break
        found = refused
        seen.add(id(found[1]))
        parts = _sent_parts(found[0], found[1])
    return found


def _why_not(part: Any) -> Exception | None:
    try:
        cloudpickle.dumps(part)
    except Exception as error:  # any type: the user's objects refuse as they like
        return error
    return None


def _sent_parts(path: str, whole: Any) -> list[tuple[str, Any]]:
    """Return an object's parts, and the attributes of a class that is sent by value; nothing for Spark's objects."""
    if _is_spark(whole):
        return []
    if isinstance(whole, type):
        return [(f"{path}.{name}", value) for name, value in vars(whole).items() if not name.startswith("__")]
    if isinstance(whole, (staticmethod, classmethod)):
        return [(path, whole.__func__)]
    own = [] if isinstance(whole, (FunctionType, MethodType)) else [(type(whole).__qualname__, type(whole))]
    return [*_parts(path, whole), *own]


def _is_spark(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("pyspark", "py4j")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON]


def largest_part(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, int]:
    """Find the object that takes most bytes; return its path and its pickled size in bytes.

    The search begins at the largest of the arguments and of the parts that the function holds, and goes down as long
    as one part carries at least half of its whole. Parts that do not pickle alone are left out.
    """
    sizes = _Sizes(fn, args, kwargs)
    given = [(f"args[{i}]", value) for i, value in enumerate(args)]
    given += [(f"kwargs[{shown(name)}]", value) for name, value in kwargs.items()]
    candidates = [*sizes.measured(given[:MAX_ITEMS], sizes.total), *_held(fn, _name(fn), sizes)]
    if not candidates:
        return _name(fn), sizes.total
    path, whole, size = max(candidates, key=_by_size)
    seen = {id(whole)}
    for _ in range(MAX_DEPTH):
        parts = [part for part in sizes.measured(_parts(path, whole), size) if id(part[1]) not in seen]
        largest = max(parts, key=_by_size, default=None)
        if largest is None or 2 * largest[2] < size:
            break
        path, whole, size = largest
        seen.add(id(whole))
    return path, size


_Measured = tuple[str, Any, int]


def _by_size(part: _Measured) -> int:
    return part[2]


def _held(fn: Callable[..., Any], name: str, sizes: _Sizes) -> list[_Measured]:
    """Measure the parts that the function holds; the function itself if it holds nothing that can be named."""
    own = sizes.measured([(name, fn)], sizes.total)
    return (sizes.measured(_parts(name, fn), own[0][2]) or own) if own else []


class _OutOfBudget(Exception):
    """Signal that the search has pickled as many bytes as it may."""


class _Sizes:
    """Measure the pickled sizes of objects: count the bytes without keeping them."""

    def __init__(self, *whole: Any) -> None:
        self._left: float = float("inf")
        self.total = self._of(whole) or 0
        self._left = MAX_WORK * self.total

    def measured(self, parts: Sequence[tuple[str, Any]], limit: int) -> list[_Measured]:
        """Return the parts with their sizes in bytes, except parts larger than their whole (`limit` bytes).

        A larger part is not sent with its whole: a module's function takes nothing along, an object may drop an
        attribute.
        """
        found = [(path, part, self._of(part)) for path, part in parts]
        # A part that is pickled alone has a separate header.
        return [(path, part, size) for path, part, size in found if size is not None and size <= 1.01 * limit + 100]

    def write(self, content: Any) -> int:
        """Count the bytes of `content`: `write` is the one method of a file that pickling needs."""
        count = memoryview(content).nbytes
        self._count += count
        if self._count > self._left:
            raise _OutOfBudget
        return count

    def _of(self, value: Any) -> int | None:
        if self._left <= 0:
            return None
        self._count = 0
        try:
            cloudpickle.dump(value, self)
        except Exception:  # any type: the user's objects refuse as they like, and the budget ends
            return None
        finally:
            self._left -= self._count
        return self._count


def _parts(path: str, whole: Any) -> list[tuple[str, Any]]:
    """Return the named parts of an object with their paths; nothing for long lists and for opaque objects."""
    if isinstance(whole, (dict, list, tuple)) and len(whole) > MAX_ITEMS:
        return []
    if isinstance(whole, FunctionType):
        parts = [(f"{whole.__name__}'s {what}", value) for what, value in _function_parts(whole)]
    elif isinstance(whole, MethodType):
        parts = [(f"{path}.__self__", whole.__self__)]
    elif isinstance(whole, functools.partial):
        parts = [(f"{path}.func", whole.func)]
        parts += [(f"{path}.args[{i}]", value) for i, value in enumerate(whole.args)]
        parts += [(f"{path}.keywords[{shown(name)}]", value) for name, value in whole.keywords.items()]
    elif isinstance(whole, dict):
        parts = [(f"{path}[{shown(key)}]", value) for key, value in whole.items()]
    elif isinstance(whole, (list, tuple)):
        parts = [(f"{path}[{i}]", value) for i, value in enumerate(whole)]
    else:
        parts = [(f"{path}.{name}", value) for name, value in _attributes(whole).items()]
    return parts[:MAX_ITEMS]


def _function_parts(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield f"variable {name!r}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    positional = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    defaults = fn.__defaults__ or ()
    yield from ((f"default of {name!r}", value) for name, value in zip(positional[::-1], defaults[::-1], strict=False))
    yield from ((f"default of {name!r}", value) for name, value in (fn.__kwdefaults__ or {}).items())
    for name in sorted(_global_names(fn.__code__) & fn.__globals__.keys()):
        yield f"global {name!r}", fn.__globals__[name]


def _global_names(code: CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_global_names(nested) for nested in code.co_consts if isinstance(nested, CodeType)))


def _attributes(whole: Any) -> dict[str, Any]:
    """Return the fields or attributes that pickling takes from an object; nothing where its class defines pickling."""
    kind = type(whole)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return {name: getattr(whole, name) for name in names if hasattr(whole, name)}
    rules = ("__reduce__", "__reduce_ex__", "__getstate__")
    if isinstance(whole, type) or any(getattr(kind, rule, None) != getattr(object, rule, None) for rule in rules):
        return {}
    return dict(getattr(whole, "__dict__", {}))


def _name(fn: Callable[..., Any]) -> str:
    # Never the repr: the repr of a partial holds all its arguments.
    if isinstance(fn, functools.partial):
        return f"partial({_name(fn.func)})"
    return getattr(fn, "__qualname__", type(fn).__qualname__)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
