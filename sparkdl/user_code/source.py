"""Find the source of the user's modules, and tell which modules are libraries.

Used on the driver, in ranks and in Spark workers. Nothing is imported here that is not imported already, and no code of
a module is run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

__all__ = ["imported_modules", "installed_digest", "is_library", "module_digest", "source_digests"]

_OURS = "sparkdl"
_LIBRARY_FOLDERS = ("site-packages", "dist-packages")
_LIBRARY_ROOTS = tuple(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib"))
_MISSING = "missing"
_PROGRAM = ("__main__", "__mp_main__")


def is_library(name: str) -> bool:
    """Tell whether a module belongs to Python, to an installed package or to sparkdl; the user's own modules do not.

    A package that is installed in editable mode lies outside of the folders of libraries and is the user's own.
    """
    top = name.partition(".")[0]
    if top in _PROGRAM:  # `python -m` gives the program a library's location
        return False
    if top == _OURS or top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return True
    spec = _spec(top)
    locations = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    return any(_is_library_location(location) for location in locations if location)


def installed_digest(name: str) -> str:
    """Return the SHA-256 of a library's installed files, as its package's RECORD lists them; else its version.

    Empty for Python's own modules, for sparkdl and for packages that no installer knows.
    """
    top = name.partition(".")[0]
    if top == _OURS or top in sys.stdlib_module_names:
        return ""
    distribution = _distribution(top)
    if distribution is None:
        return ""
    record = distribution.read_text("RECORD")
    if record is None:
        return distribution.version
    # Scripts and the installer's own notes differ from one machine to another.
    lines = [line for line in record.splitlines() if not line.startswith("..") and ".dist-info/" not in line]
    kept = sorted(line for line in lines if not line.partition(",")[0].endswith(".pyc"))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def _distribution(top: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(top)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(top, [])
        return metadata.distribution(names[0]) if names else None


def source_digests(names: Iterable[str]) -> dict[str, str]:
    """Digest the user's modules, and all modules that these import; one digest for each module's name.

    The digest of a user's module is of its syntax tree, without comments and docstrings, as the file lies on disk
    now: a new process imports that. The digest of a library is that of its installation.
    """
    importlib.invalidate_caches()  # a module that was just written must be found
    found: dict[str, str] = {}
    waiting = [name for given in names for name in _with_parents(given)]
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in found:
            continue
        if is_library(name):
            found.setdefault(top, installed_digest(top))
            continue
        tree, is_package = _tree(name)
        found[name] = _MISSING if tree is None else _digest(tree)
        if tree is not None:
            package = name if is_package else name.rpartition(".")[0]
            waiting += [parent for module in _imports(tree, package) for parent in _with_parents(module)]
    return dict(sorted(found.items()))


def module_digest(name: str) -> str | None:
    """Digest one module alone, as in `source_digests`; None where it has neither source nor installed files."""
    if is_library(name):
        return installed_digest(name) or None
    tree, _ = _tree(name)
    return None if tree is None else _digest(tree)


def imported_modules(module: str, names: Iterable[str], *, level: int, package: str) -> list[str]:
    """List the modules that `from module import names` may load: `module`, and those of the names that are modules."""
    if level:
        parent = package.rsplit(".", level - 1)[0] if level > 1 else package
        module = f"{parent}.{module}" if module else parent
    if is_library(module):
        return [module]
    below = [f"{module}.{name}" for name in names if name != "*"]
    return [module, *(name for name in below if _spec(name) is not None)]


def _with_parents(name: str) -> list[str]:
    """List the packages that importing a dotted name runs, and the name."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield from imported_modules(node.module or "", names, level=node.level, package=package)


def _digest(tree: ast.Module) -> str:
    """Return the SHA-256 of a syntax tree without docstrings, comments and line numbers."""
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
            # An empty file is the same as one with a docstring alone.
            rest = [] if isinstance(node, ast.Module) else [ast.Pass()]
            node.body = node.body[1:] or rest  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _tree(name: str) -> tuple[ast.Module | None, bool]:
    """Return a module's syntax tree, None if it has no source in Python; and whether the module is a package."""
    spec = _spec(name)
    if spec is None:
        return None, False
    is_package = spec.submodule_search_locations is not None
    read: Any = getattr(spec.loader, "get_source", None)
    if read is None:
        return (ast.Module([], []) if is_package else None), is_package  # a package without a file
    try:
        source = read(name)
        return (None if source is None else ast.parse(source)), is_package
    except (ImportError, OSError, SyntaxError, ValueError):
        return None, is_package


def _spec(name: str) -> ModuleSpec | None:
    """Find the specification of a module, without importing it or its parents."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    parent, _, _ = name.rpartition(".")
    path = None
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        found = find(name, path) if find is not None else None
        if found is not None:
            return found
    return None


def _is_library_location(location: str) -> bool:
    if location in ("built-in", "frozen") or any(part in _LIBRARY_FOLDERS for part in Path(location).parts):
        return True
    resolved = Path(location).resolve()
    return any(root in resolved.parents for root in _LIBRARY_ROOTS)
