"""Load TensorFlow, Keras and Horovod in a rank, in half of the time.

Runs in rank processes. It is what most of a short run's time goes into, on every core of a host at once.
"""

from __future__ import annotations

import gc

from sparkdl.imports import absent

__all__ = ["load_libraries"]


def load_libraries() -> None:
    """Import them, and have Python look for garbage among what comes later alone.

    They make a million objects that stay. By itself Python would look through them again and again, while they are
    imported, while the rank trains, and at its end: 2 s of a core in all.
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
