"""Load TensorFlow, Keras and Horovod in a rank, in half of the time.

Runs in rank processes. It is what most of a short run's time goes into, on every core of a host at once.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["load_libraries"]


def load_libraries() -> None:
    """Import them, and have Python look for garbage among what comes later alone.

    They make a million objects that stay. By itself Python would look through them again and again, while they are
    imported, while the rank trains, and at its end: 2 s of a core in all.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        with _absent("sklearn"):
            import horovod.tensorflow  # noqa: F401
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    finally:
        gc.freeze()
        if collected:
            gc.enable()


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """Within the block nobody finds a module that was not imported before.

    Keras imports scikit-learn, and SciPy with it, for wrappers around a model that fits by itself: of no use in a rank.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
