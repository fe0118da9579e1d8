"""Import large libraries without their optional imports, and without collecting garbage."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

__all__ = ["keras_backend", "load_libraries", "without_optional_imports"]


class _Deferred(ModuleType):
    """Stand in for a module; import it when one of its names is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        for imported, module in list(sys.modules.items()):
            if isinstance(module, _Deferred):
                del sys.modules[imported]
        return getattr(importlib.import_module(self.__name__), name)


def _stand_ins() -> dict[str, ModuleType | None]:
    """Modules that Keras imports if they are installed, and that a rank or a Spark worker hardly ever uses.

    Keras imports scikit-learn to derive its wrappers from scikit-learn's classes: hidden, it costs no time, and the
    wrappers say that they need it. Keras draws with Matplotlib: deferred, it is imported when Keras first draws.
    Together the two cost 2.1 s of a core and 83 MiB of memory in each process (Keras 3.15).
    """
    matplotlib = _Deferred("matplotlib")
    parts = {name: _Deferred(f"matplotlib.{name}") for name in ("patches", "pyplot")}
    vars(matplotlib).update(parts)
    return {"sklearn": None, "matplotlib": matplotlib, **{module.__name__: module for module in parts.values()}}


@contextlib.contextmanager
def without_optional_imports() -> Iterator[None]:
    """Within the block, do not import what Keras imports only if it is installed, unless it was imported before."""
    added = {name: module for name, module in _stand_ins().items() if name.partition(".")[0] not in sys.modules}
    sys.modules.update(added)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name, name) is module:  # nothing has used the module within the block
                del sys.modules[name]


def keras_backend() -> str:
    """Return the backend that Keras would choose at its import: from KERAS_BACKEND, else keras.json, else TensorFlow.

    See https://keras.io/getting_started/#configuring-your-backend.
    """
    if chosen := os.environ.get("KERAS_BACKEND"):
        return chosen
    folder = os.environ.get("KERAS_HOME") or os.path.expanduser(os.path.join("~", ".keras"))
    try:
        with open(os.path.join(folder, "keras.json")) as file:
            return str(json.load(file)["backend"])
    except (OSError, ValueError, LookupError, TypeError):
        return "tensorflow"


def load_libraries() -> None:
    """Load TensorFlow, Horovod and Keras in a rank, and exclude their objects from garbage collection.

    That halves the time of the import, which is most of a short run's time, on every core of a host at once. The
    libraries make a million objects that stay. Otherwise Python would search these objects again and again, during the
    import, while the rank trains, and at its end: 2 s of a core in all.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        with without_optional_imports():
            import horovod.tensorflow  # noqa: F401
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    finally:
        gc.freeze()
        if collected:
            gc.enable()
