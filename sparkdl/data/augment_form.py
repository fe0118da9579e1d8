"""Tell which form an augment function has. Pure; called on the driver and in rank processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from sparkdl.errors import ConfigError, shown

__all__ = ["function_name", "takes_targets"]

FORMS = "def augment(inputs, seed), or def augment(inputs, targets, seed), which changes targets too"


def takes_targets(augment: Callable[..., Any]) -> bool:
    """Tell whether `augment` is a function of (inputs, targets, seed), and not of (inputs, seed).

    A function that can be called with two arguments gets two. Raises ConfigError for a function of another form.
    """
    if not callable(augment):
        raise ConfigError(f"augment={shown(augment)} must be a function; write {FORMS}")
    try:
        signature = inspect.signature(augment)
    except (TypeError, ValueError):  # some callables have no signature
        return False
    for count in (2, 3):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count == 3
    raise ConfigError(f"augment={function_name(augment)}{signature} must take two or three arguments; write {FORMS}")


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function in messages."""
    return str(getattr(function, "__qualname__", type(function).__qualname__)).rpartition("<locals>.")[2]
