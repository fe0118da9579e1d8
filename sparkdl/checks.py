"""Check the values of configurations; each check raises ConfigError and names the field. Pure.

Runs on the driver, where users and jobs build configurations.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Iterable
from typing import Any, TypeGuard, TypeVar

from sparkdl.errors import ConfigError, near_miss, shown

__all__ = [
    "as_path",
    "check_options",
    "is_whole",
    "named_options",
    "require",
    "require_exactness",
    "require_seconds",
    "require_seed",
    "require_target",
    "require_whole",
]


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[int]:
    """Tell whether the value is a whole number from `least` to `most`; True and False are not numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ConfigError unless the value is a whole number of at least `least`."""
    require(is_whole(value, least), f"{name}={shown(value)} must be a whole number of at least {least}")


def check_options(given: Iterable[object], known: Iterable[str], where: str = "") -> None:
    """Raise ConfigError for the first option that is not known, with its near miss, after `where`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{where}unknown option {name!r}{near_miss(str(name), known)}")


def require_seconds(name: str, value: object, *, least: float) -> None:
    """Raise ConfigError unless the value is a number of at least `least` seconds."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least
    require(good, f"{name}={shown(value)} must be at least {least:g} seconds")


def as_path(name: str, value: object) -> str:
    """Return a path as a string. Raises ConfigError unless the value is a string or a path, and not empty."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    require(isinstance(text, str) and text != "", f"{name}={shown(value)} must be a folder or a URL")
    return str(text)


def require_seed(value: object) -> None:
    """Raise ConfigError unless the value can seed every random generator of sparkdl."""
    require(is_whole(value, 0, 2**63 - 1), f"seed={shown(value)} must be a whole number from 0 to 2**63 - 1")


def require_target(value: object) -> None:
    """Raise ConfigError unless the value names what a model learns to predict."""
    require(value in ("label", "inputs"), f"target={shown(value)} must be 'label' or 'inputs'")


def require_exactness(value: object) -> None:
    """Raise ConfigError unless the value is a treatment of losses, metrics and layers that cannot be exact."""
    require(value in ("strict", "per_worker"), f"exactness={shown(value)} must be 'strict' or 'per_worker'")


T = TypeVar("T")


def named_options(cls: type[T]) -> type[T]:
    """Make a dataclass raise ConfigError, in place of a bare TypeError, for arguments that it does not take.

    The decorator stands above `@dataclass`.
    """
    make: Any = cls.__init__
    signature = inspect.signature(make)
    names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]

    @functools.wraps(make)
    def __init__(self: T, *args: Any, **options: Any) -> None:
        check_options(options, names, f"{cls.__name__}: ")
        try:
            signature.bind(self, *args, **options)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}; its options are {', '.join(names)}") from None
        make(self, *args, **options)

    setattr(cls, "__init__", __init__)  # noqa: B010 (mypy forbids the plain assignment)
    return cls
