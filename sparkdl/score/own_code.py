"""Name the code of the user's own classes and functions in a model, so that edited code is seen to be other code.

Made on the driver, compared in Spark workers. Modules are found and read, never imported here. Installed packages count
by the module's file and the package's version; other modules with all modules of the user's that they import.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import pickletools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from cloudpickle import list_registry_pickle_by_value

from sparkdl.errors import ModelError

__all__ = ["OwnCode", "check_code", "own_code"]

# Folders of installed packages; and packages that may lie elsewhere.
_INSTALLED = ("site-packages", "dist-packages")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FOREIGN = sys.stdlib_module_names | {"__main__", "py4j", "pyspark", "sparkdl"}

# What this process has imported for models, and which source each module had then.
_IMPORTED: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """The user's own code that a model needs.

    Attributes:
        objects: each class and function that was given, by name, with its module and its name there.
        modules: the modules that hold them and that those import, each with what names its source.
        is_named: whether these tell all of the code. Classes of `__main__`, of a notebook or inside of functions have
            no name that another process knows.
    """

    objects: tuple[tuple[str, str], ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    is_named: bool = True


def own_code(
    saved: Mapping[str, str | None], given: Mapping[str, Any], pickled: bytes, *, import_modules: bool
) -> OwnCode:
    """The code that loading a model takes.

    Args:
        saved: the model's own names with their modules, as in its signature.
        given: the caller's own objects by name.
        pickled: those, as they travel to workers.
        import_modules: what was not given is imported from the modules that `saved` names (`safe_mode=False`).
    """
    importlib.invalidate_caches()  # a module may just have been written
    objects = {name: _reference(found) for name, found in given.items()}
    roots = {reference.split(":")[0] for reference in objects.values() if reference is not None}
    if import_modules:
        # Keras finds no other name of the model's: those without a module, or in safe mode, are not needed to predict.
        found = (module for name, module in saved.items() if not {name, name.rsplit(">", 1)[-1]} & given.keys())
        roots |= {module for module in found if module is not None and _is_importable(module)}
    sources = _sources(roots)
    is_named = None not in objects.values() and roots <= sources.keys()
    # What travels by value names the modules that it uses by their names.
    sources |= _sources({name for name in _texts(pickled) if name in sys.modules and _is_own(name)})
    return OwnCode(
        objects=tuple(sorted((name, reference) for name, reference in objects.items() if reference is not None)),
        modules=tuple(sorted(sources.items())),
        is_named=is_named,
    )


def check_code(code: OwnCode, model_dir: str) -> None:
    """See that this process scores with the code that the driver named; to be called when it is imported.

    Raises ModelError if the file of a module that this process has imported is another, or was another at that time.
    """
    for module, expected in code.modules:
        if module not in sys.modules:
            continue
        if _source_name(module) != expected:
            raise ModelError(
                f"module {module}, which the model in {model_dir} needs, is not what it was on the driver when the "
                "function was made; make the function again, or give all hosts the same file"
            )
        if _IMPORTED.setdefault(module, expected) != expected:
            raise ModelError(
                f"this worker imported module {module} before it was edited; run the query again (this worker ends "
                "now, and a new one imports it anew), or set spark.python.worker.reuse=false"
            )


def _is_importable(module: str) -> bool:
    return "<locals>" not in module and module.split(".")[0] != "__main__"


def _reference(found: Any) -> str | None:
    """`module:name` of a class or function that every process can import by it, else None."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not _is_importable(module):
        return None
    if any(module == by_value or module.startswith(f"{by_value}.") for by_value in list_registry_pickle_by_value()):
        return None
    value: Any = sys.modules.get(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    return f"{module}:{name}" if value is found else None


def _texts(pickled: bytes) -> Iterator[str]:
    """All strings in a pickle."""
    for _, value, _ in pickletools.genops(pickled):
        if isinstance(value, str):
            yield value


def _sources(roots: set[str]) -> dict[str, str]:
    """These modules and the user's own that they import, directly or not, each with what names its source.

    Those of which there is no source are left out.
    """
    found: dict[str, str] = {}
    waiting = sorted(roots)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        source = _source_name(module)
        if source is None:
            continue
        found[module] = source
        if _is_own(module):
            waiting += [name for name in _imports(module) if name not in found and _is_own(name)]
    return found


def _source_name(module: str) -> str | None:
    """What names the source of a module as its file is now, None where there is none."""
    spec = _spec(module)
    content = None if spec is None else _content(spec)
    if spec is None or content is None:
        return None
    if not _is_own(module):
        content += _version(module.split(".")[0]).encode()
    return _digest(content, of_statements=_is_own(module))


@functools.lru_cache(maxsize=256)
def _digest(content: bytes, *, of_statements: bool) -> str:
    """Of a file, or of the statements in it: comments, docstrings and blank lines do not make other code."""
    tree = _parsed(content) if of_statements else None
    if tree is not None:
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
        content = ast.dump(tree).encode()
    return hashlib.sha256(content).hexdigest()[:32]


def _parsed(content: bytes) -> ast.Module | None:
    """The statements of a Python file; None for an extension module."""
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError):
        return None


def _content(spec: importlib.machinery.ModuleSpec) -> bytes | None:
    """The file of a module, from a folder or a zip; of a folder without `__init__.py`, nothing."""
    if spec.origin is None:
        return b"" if spec.submodule_search_locations is not None else None
    try:
        return bytes(spec.loader.get_data(spec.origin))  # type: ignore[union-attr]
    except (AttributeError, ImportError, OSError):
        return None


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module is found; neither it nor its package is imported for that."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__spec__", None)
    package, _, _ = module.rpartition(".")
    path = None
    if package:
        above = _spec(package)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(module, path) if find is not None else None
        if spec is not None:
            return spec
    return None


def _is_own(module: str) -> bool:
    """Whether a module is neither Python's own nor of an installed package."""
    if module.split(".")[0] in _FOREIGN:
        return False
    spec = _spec(module)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return bool(places) and not any(name in PurePath(place).parts for place in places for name in _INSTALLED)


def _imports(module: str) -> set[str]:
    """All modules whose names follow from the import statements of a module, and the packages that hold it."""
    spec = _spec(module)
    content = None if spec is None else _content(spec)
    names = {module.rsplit(".", place)[0] for place in range(1, module.count(".") + 1)}
    if spec is None or not content:
        return names
    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
    for node in ast.walk(_parsed(content) or ast.Module([], [])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{above}.{base}".strip(".")
            # What is imported of a package may be a module in it.
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names | {name.rsplit(".", place)[0] for name in names for place in range(1, name.count(".") + 1)}


@functools.lru_cache(maxsize=64)
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
