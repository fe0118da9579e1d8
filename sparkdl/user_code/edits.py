"""Tell which of the user's modules were edited after this process imported them.

Python keeps neither the source that it imported nor the time of the import. So a module's source is compared
with the code of its functions in memory, with the constants beside them, and with the source at the time when sparkdl
first looked at it. An edit of anything else before that time is not seen.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sparkdl.user_code.source import is_library, module_digest

__all__ = ["edited_modules"]

# By module name: its specification, which a reload makes anew, and its source's digest when memory and source agreed.
_SEEN: dict[str, tuple[ModuleSpec, str]] = {}

# Values of other types are replaced by decorators and metaclasses: an enumeration's members, a dataclass's slots.
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def edited_modules(names: Iterable[str]) -> list[str]:
    """List the modules among `names` that this process has imported, and whose files define something else now.

    Comments, docstrings and moved lines make no difference. Libraries are not looked at.
    """
    return [name for name in sorted(set(names)) if name in sys.modules and not is_library(name) and _is_edited(name)]


def _is_edited(name: str) -> bool:
    module, digest = sys.modules[name], module_digest(name)
    spec = getattr(module, "__spec__", None)
    if digest is None or not isinstance(spec, ModuleSpec):
        return False
    seen, first = _SEEN.get(name, (None, ""))
    if seen is spec:
        return first != digest
    with contextlib.suppress(Exception):  # objects of a module may fail when they are looked at
        if _differs(module, spec):
            return True
    _SEEN[name] = spec, digest
    return False


def _differs(module: ModuleType, spec: ModuleSpec) -> bool:
    """Tell whether functions or constants in memory are not those that the file defines now."""
    loader: Any = spec.loader
    try:
        source, path = loader.get_source(module.__name__), spec.origin
        if source is None or path is None:
            return False
        # Compiled by the loader, since some loaders change the code.
        own = getattr(loader, "source_to_code", None)
        code = compile(source, path, "exec", dont_inherit=True) if own is None else own(source, path)
        tree = ast.parse(source)
    except (ImportError, OSError, SyntaxError, ValueError, AttributeError):
        return False
    now: dict[str, list[tuple[Any, ...]]] = {}
    for name, inner in _codes(code, ""):
        now.setdefault(name, []).append(_meaning(inner))
    defaults = dict(_defaults(tree.body, ""))
    for function in _functions(module):
        if function.__code__.co_filename not in (path, getattr(module, "__file__", None)):
            continue  # made by a decorator of another module
        name = function.__qualname__
        if name not in now or function.__code__.co_name != name.rpartition(".")[2]:
            continue  # the function was renamed, made within a function, or left behind by a reload
        if _meaning(function.__code__) not in now[name]:
            return True
        if len(now[name]) == 1 and not _agree(function.__defaults__, defaults.get(name, [])):
            return True
    return _constants_differ(module, tree)


def _defaults(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """Yield each function and method of a module, by qualified name, with its defaults."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{prefix}{node.name}", node.args.defaults
        elif isinstance(node, ast.ClassDef):
            yield from _defaults(node.body, f"{prefix}{node.name}.")


def _agree(values: tuple[Any, ...] | None, written: list[ast.expr]) -> bool:
    """Tell whether defaults are equal to the written ones, as far as both are numbers, text or None."""
    pairs = zip(reversed(values or ()), reversed(written), strict=False)
    return all(
        repr(value) == repr(node.value)
        for value, node in pairs
        if isinstance(node, ast.Constant) and type(value) in _PLAIN
    )


def _codes(code: CodeType, prefix: str) -> Iterator[tuple[str, CodeType]]:
    """Yield a module's or class's functions, by qualified name; a nested function is a part of the outer one."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & inspect.CO_OPTIMIZED:  # a function, not the body of a class
                yield f"{prefix}{inner.co_name}", inner
            else:
                yield from _codes(inner, f"{prefix}{inner.co_name}.")


def _meaning(code: CodeType) -> tuple[Any, ...]:
    """Describe what a function does, without its lines and docstring."""
    steps = [(s.opname, _argument(s.argval)) for s in dis.get_instructions(code) if s.opname != "EXTENDED_ARG"]
    flags = code.co_flags & ~inspect.CO_ITERABLE_COROUTINE  # which a decorator sets
    return code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_varnames, flags, steps


def _argument(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _meaning(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Yield the functions and methods that a module defines."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for found in list(vars(value).values()) if isinstance(value, type) else [value]:
            yield from _unwrapped(found)


def _unwrapped(found: Any) -> Iterator[FunctionType]:
    if isinstance(found, property):
        parts: list[Any] = [found.fget, found.fset, found.fdel]
    elif isinstance(found, functools.cached_property):
        parts = [found.func]
    else:
        parts = [getattr(found, "__func__", found)]
    for part in parts:
        inner = inspect.unwrap(part) if callable(part) else part
        if isinstance(inner, FunctionType):
            yield inner


def _constants_differ(module: ModuleType, tree: ast.Module) -> bool:
    """Tell whether constants of the module (in capitals) or of its classes have other values than in the file.

    A name that the module itself assigns elsewhere, too, is not a constant.
    """
    assigned = Counter(
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(tree)
        if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store)
    )
    bodies: list[tuple[Any, list[ast.stmt]]] = [(module, tree.body)]
    bodies += [(getattr(module, n.name, None), n.body) for n in tree.body if isinstance(n, ast.ClassDef)]
    for holder, body in bodies:
        if not isinstance(holder, (type, ModuleType)):
            continue
        for name, value in _literals(body).items():
            constant = assigned[name] == 1 and (holder is not module or name.isupper())
            found = vars(holder).get(name, ...)
            if constant and type(found) in _PLAIN and repr(found) != repr(value):
                return True
    return False


def _literals(body: Iterable[ast.stmt]) -> dict[str, Any]:
    """Return the last value of each name that is assigned a number, text or None in the body of a module or class."""
    found: dict[str, Any] = {}
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name):
                found.pop(target.id, None)
                value = getattr(node, "value", None)
                if isinstance(value, ast.Constant):
                    found[target.id] = value.value
    return found
