"""Import large libraries without what they import only because it is installed, and without collecting garbage."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["absent", "load_libraries"]


@contextlib.contextmanager
def absent(module: str) -> Iterator[None]:
    """Within the block nobody finds a module that was not imported before; after it everybody does again.

    Keras imports scikit-learn, if it is installed, for wrappers around a model that fits by itself: of no use in a rank
    or a Spark worker, and there 1.4 s of a core and 57 MiB of memory in each process (Keras 3.15).
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
    """Load TensorFlow, Keras and Horovod in a rank, and have Python look for garbage among what comes later alone.

    That halves the time of the import, which most of a short run's time goes into, on every core of a host at once. The
    libraries make a million objects that stay. By itself Python would look through them again and again, while they
    are imported, while the rank trains, and at its end: 2 s of a core in all.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        with absent("sklearn"):
            import horovod.tensorflow  # noqa: F401
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    finally:
        gc.freeze()
        if collected:
            gc.enable()
