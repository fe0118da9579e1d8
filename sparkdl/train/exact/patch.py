"""Replace attributes of the user's objects, and restore the original ones.

Runs in rank processes. Instances alone are changed: classes and saved configurations stay the user's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["patched"]


@contextmanager
def patched(owner: Any, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Give the instance these attributes, within the block."""
    own = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name, value in attributes.items():
        # Past Keras' own __setattr__, which would track the values.
        object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in own:
                object.__setattr__(owner, name, own[name])
            else:
                object.__delattr__(owner, name)
