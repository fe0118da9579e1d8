"""Replace attributes of the user's objects, and restore the original ones.

Runs in rank processes. Instances alone are changed: classes and saved configurations stay the user's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["all_patched", "patched"]


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


@contextmanager
def all_patched(attributes: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[None]:
    """Give each instance its attributes, within the block."""
    with ExitStack() as stack:
        for owner, own_attributes in attributes:
            stack.enter_context(patched(owner, own_attributes))
        yield
