"""Fingerprint functions and classes by the code that they run, without comments, docstrings, lines and file names.

`fingerprint` is for the driver: a function with all that is sent along with it. `code_digest` is for ranks: the code of
a class or function that is in a model. Neither digest depends on the process, on the seed of hashes, or on a notebook's
cell being run again.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import pickle
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

import cloudpickle
import numpy as np

from sparkdl.user_code.code_steps import constant_steps, used_names
from sparkdl.user_code.live_values import own_parts, value_parts
from sparkdl.user_code.source import imported_modules, installed_digest, is_library, source_digests

__all__ = ["code_digest", "fingerprint", "import_name", "is_own"]

_NAMED = (
    types.BuiltinFunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)
_CACHED = functools._lru_cache_wrapper  # of functools.cache and lru_cache
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
# Attributes of a class that say nothing of its behaviour, or differ between processes.
_NOT_CODE = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "_abc_impl"),
    *("__firstlineno__", "__static_attributes__", "__slotnames__", "__annotate__", "__annotate_func__"),
}


def fingerprint(value: Any) -> str | None:
    """Return the SHA-256 of a function or other object, with all that is sent along; None if a part has no fingerprint.

    An object that is sent by value counts with its code, defaults, variables and globals. One that ranks import counts
    by the source that lies on disk now, with all modules that this source imports; libraries count by installed files.
    """
    try:
        return _Walk(live=False).digest(value)
    except Exception:  # any type: the user's objects refuse as they like
        return None


def code_digest(value: Any) -> str:
    """Return the SHA-256 of the code of a class or function of this process, and of the user's code that it refers to.

    Libraries count by name. Of objects that code refers to, values count by their content, and others by their class
    (see `live_values`).
    """
    try:
        return _Walk(live=True).digest(value)
    except RecursionError:
        return _sha("too deep")


def import_name(value: Any) -> str | None:
    """Return `module:name` of a class or function if a new process finds this very object by it, else None.

    cloudpickle sends all others by value.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    if any(module == sent or module.startswith(f"{sent}.") for sent in cloudpickle.list_registry_pickle_by_value()):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value else None


def is_own(value: Any) -> bool:
    """Tell whether a class or function is the user's, and not a library's."""
    module = getattr(value, "__module__", None)
    return isinstance(value, (type, types.FunctionType)) and (not isinstance(module, str) or not is_library(module))


class _Walk:
    """Digest values by their parts. A value that refers to itself counts there by the levels between."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._open: dict[int, int] = {}
        # The objects are kept, so that an id is not given to another object.
        self._known: dict[int, tuple[str, Any]] = {}

    def digest(self, value: Any) -> str:
        if isinstance(value, _ATOMS) and type(value) in _ATOMS:
            return _sha(type(value).__name__, repr(value))
        key = id(value)
        if key in self._open:
            return _sha("above", str(len(self._open) - self._open[key]))
        if key not in self._known:
            self._open[key] = len(self._open)
            try:
                self._known[key] = (self._parts(value), value)
            finally:
                del self._open[key]
        return self._known[key][0]

    def _all(self, kind: str, values: Iterable[Any]) -> str:
        return _sha(kind, *(self.digest(value) for value in values))

    def _items(self, kind: str, values: Mapping[str, Any]) -> str:
        return _sha(kind, *(part for name in sorted(values) for part in (name, self.digest(values[name]))))

    def _parts(self, value: Any) -> str:
        kind = type(value)
        if kind in (tuple, list):
            return self._all(kind.__name__, value)
        if kind in (set, frozenset):
            return _sha(kind.__name__, *sorted(self.digest(entry) for entry in value))
        if kind in (dict, types.MappingProxyType):
            return self._all("dict", [part for item in value.items() for part in item])
        if kind is types.CodeType:
            return self._all("code", constant_steps(value))
        if kind is types.FunctionType:
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return self._module(value, set())
        if kind is types.MethodType:
            return self._all("method", (value.__func__, value.__self__))
        if kind in (staticmethod, classmethod):
            return self._all(kind.__name__, (value.__func__,))
        if kind is property:
            return self._all("property", (value.fget, value.fset, value.fdel))
        if kind is functools.partial:
            return self._all("partial", (value.func, value.args, value.keywords))
        if kind is functools.cached_property:
            return self._all("cached_property", (value.func,))
        if kind is _CACHED and (self._live or value.__module__ == "__main__"):
            return self._all("cached", (value.__wrapped__,))
        if kind in _NAMED and (
            kind is not types.BuiltinFunctionType or isinstance(value.__self__, (types.NoneType, types.ModuleType))
        ):
            return _sha(kind.__name__, str(getattr(value, "__module__", "")), value.__qualname__)
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return _sha("array", str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest())
        if not is_own(kind) and (function := _wrapped(value)) is not None:
            return self._all("wrapped", (kind, function))
        return self._live_object(value) if self._live else self._object(value)

    def _function(self, fn: types.FunctionType) -> str:
        if (named := self._by_name(fn)) is not None:
            return named
        code, names = fn.__code__, used_names(fn.__code__)
        cells = {}
        for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        found = {name: fn.__globals__[name] for name in names.globals if name in fn.__globals__}
        modules = {name: value for name, value in found.items() if isinstance(value, types.ModuleType)}
        package = str(fn.__globals__.get("__package__") or "")
        imports: list[str] = []
        for module, taken, level in names.imports:
            imports += imported_modules(module, taken, level=level, package=package)
        return _sha(
            "function",
            fn.__name__,
            self.digest(code),
            self._all("defaults", (fn.__defaults__, fn.__kwdefaults__)),
            self._items("cells", cells),
            self._items("globals", {name: value for name, value in found.items() if name not in modules}),
            *(self._module(value, names.attributes) for _, value in sorted(modules.items())),
            self._imported(imports),
            self._items("attributes", vars(fn)),
        )

    def _class(self, cls: type) -> str:
        if (named := self._by_name(cls)) is not None:
            return named
        parts = {name: value for name, value in vars(cls).items() if name not in _NOT_CODE}
        return _sha("class", cls.__name__, self._all("bases", (type(cls), *cls.__bases__)), self._items("parts", parts))

    def _by_name(self, value: Any) -> str | None:
        """Return the digest of a class or function that a rank imports by name; None for one that is sent by value."""
        module, name = getattr(value, "__module__", None), value.__qualname__
        if not isinstance(module, str):
            return None
        if is_library(module):
            return _sha("library", module, name, "" if self._live else installed_digest(module))
        if self._live or import_name(value) is None:
            return None
        return _sha("module", name, self._imported([module]))

    def _module(self, module: types.ModuleType, attributes: set[str]) -> str:
        """Digest a module that code names, and those of its attributes that the code may mean."""
        name = module.__name__
        if is_library(name):
            return _sha("library", name, "" if self._live else installed_digest(name))
        below = [sys.modules[f"{name}.{part}"] for part in sorted(attributes) if f"{name}.{part}" in sys.modules]
        if self._live:
            meant = {part: vars(module)[part] for part in attributes if part in vars(module)}
            own = {part: value for part, value in meant.items() if not isinstance(value, types.ModuleType)}
            return _sha(name, self._items("module", own), *(self._module(part, attributes) for part in below))
        if name == "__main__":
            raise ValueError("the program has no fingerprint")
        if getattr(module, "__spec__", None) is None or name in cloudpickle.list_registry_pickle_by_value():
            return self._items("module", {part: v for part, v in vars(module).items() if not part.startswith("__")})
        return _sha(self._imported([name]), *(self._module(part, attributes) for part in below))

    def _imported(self, names: Iterable[str]) -> str:
        digests = source_digests(names)
        if self._live:
            digests = {name: digest for name, digest in digests.items() if not is_library(name)}
        return _sha(*(part for item in digests.items() for part in item))

    def _object(self, value: Any) -> str:
        """Digest an object by what pickling takes of it."""
        reducer = copyreg.dispatch_table.get(type(value))
        reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
        if isinstance(reduced, str):
            name = pickle.whichmodule(value, reduced)  # type: ignore[attr-defined]
            return _sha("name", name, reduced, self._module(sys.modules[name], {reduced}))
        if not isinstance(reduced, tuple):
            raise ValueError(f"{type(value).__qualname__} has no fingerprint, as a lock has none")
        made = [part if index < 3 or index > 4 or part is None else list(part) for index, part in enumerate(reduced)]
        return self._all("object", made)

    def _live_object(self, value: Any) -> str:
        """Digest an object of a running process by its configuration, by attributes (user's class), or by its value."""
        kind = type(value)
        if callable(config := getattr(value, "get_config", None)):
            try:
                return self._all("configured", (kind, config()))
            except Exception:  # any type: the class says enough
                return self._all("object", (kind,))
        if is_own(kind):
            return _sha("object", self.digest(kind), self._items("attributes", own_parts(value)))
        return self._all("object", (kind, *(value_parts(value) or ())))


def _wrapped(value: Any) -> types.FunctionType | None:
    """Return the function in a library's object, such as a tf.function, whose parts tell nothing of that code."""
    found = (getattr(value, name, None) for name in ("python_function", "__wrapped__"))
    return next((one for one in found if isinstance(one, types.FunctionType)), None)


def _sha(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
