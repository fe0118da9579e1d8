"""Refuse an option that a configuration does not have, and name the one that was meant.

Used by the dataclasses that users make on the driver.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any, TypeVar

from sparkdl.errors import ConfigError, near_miss

__all__ = ["named_options"]

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
        for name in options:
            if name not in names:
                raise ConfigError(f"{cls.__name__} has no option {name!r}{near_miss(name, names)}")
        try:
            signature.bind(self, *args, **options)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}; its options are {', '.join(names)}") from None
        make(self, *args, **options)

    setattr(cls, "__init__", __init__)  # noqa: B010 (mypy forbids the plain assignment)
    return cls
