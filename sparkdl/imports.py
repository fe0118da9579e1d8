"""Import large libraries without what they import only because it is installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["absent"]


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
