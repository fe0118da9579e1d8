"""Give a rank other modules than the installed ones, where an installed one does not work.

Runs in rank processes, before the function is read. A replaced module, and what replaces it, are imported when the
user's code imports them, and not before.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["replace_modules"]

# Horovod 0.28.1 has an interface for Keras 2, which fails with Keras 3. Names alone: what lies above this room is
# imported by the user's code only.
_HOROVOD_KERAS = "sparkdl.compat.horovod_keras"
_REPLACED = {
    f"{interface}{module}": f"{_HOROVOD_KERAS}{module}"
    for interface in ("horovod.keras", "horovod.tensorflow.keras")
    for module in ("", ".callbacks", ".elastic")
}
# A module shows these of another one's names that begin with two underscores.
_SHOWN = ("__all__", "__doc__", "__getattr__")


class _Loader(Loader):
    """Make a module that has the names of another one."""

    def __init__(self, source: str) -> None:
        self._source = source

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module the other one's names."""
        source = vars(importlib.import_module(self._source))
        vars(module).update((name, it) for name, it in source.items() if name[:2] != "__" or name in _SHOWN)


class _Finder(MetaPathFinder):
    """Find the replaced modules, before Python looks for the installed ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a replaced module, None for any other."""
        source = _REPLACED.get(fullname)
        if source is None:
            return None
        return ModuleSpec(fullname, _Loader(source), is_package=source == _HOROVOD_KERAS)


def replace_modules() -> None:
    """Have this process import our implementation where it imports Horovod's interface for Keras."""
    sys.meta_path.insert(0, _Finder())
