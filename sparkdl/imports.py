"""Import large libraries without their optional imports, and without collecting garbage."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["without_module", "load_libraries"]


@contextlib.contextmanager
def without_module(module: str) -> Iterator[None]:
    """Hide a module within the block, unless it was imported before.

    Keras imports scikit-learn, if it is installed, for its scikit-learn wrappers. A rank or a Spark worker does not use
    the wrappers, and the import costs 1.4 s of a core and 57 MiB of memory in each process (Keras 3.15).
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def load_libraries() -> None:
    """Load TensorFlow, Keras and Horovod in a rank, and exclude their objects from garbage collection.

    That halves the time of the import, which is most of a short run's time, on every core of a host at once. The
    libraries make a million objects that stay. Otherwise Python would search these objects again and again, during the
    import, while the rank trains, and at its end: 2 s of a core in all.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        with without_module("sklearn"):
            import horovod.tensorflow  # noqa: F401
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    finally:
        gc.freeze()
        if collected:
            gc.enable()
