"""Read compiled Python code: its instructions without lines and docstrings, and the names that it uses.

Pure.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from types import CodeType
from typing import Any

__all__ = ["Names", "constant_steps", "used_names"]

# *args, **kwargs, generators and coroutines; the other flags say nothing of what the code does.
_FLAGS = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200
# Names that the body of a class assigns, whose values follow the text and not the code.
_TEXT = ("__doc__", "__firstlineno__", "__static_attributes__")


@dataclass(frozen=True, slots=True)
class Names:
    """Hold the names that code uses, nested functions included."""

    globals: set[str]
    attributes: set[str]
    imports: list[tuple[str, tuple[str, ...], int]]
    """For each import statement the module, the names taken from it, and the level of a relative import."""


def constant_steps(code: CodeType) -> list[Any]:
    """List all that determines what code does, as values; nested code objects are among them."""
    steps: list[Any] = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS]
    steps.append(getattr(code, "co_exceptiontable", b""))
    instructions = list(dis.get_instructions(code))
    for step, following in zip_longest(instructions, instructions[1:]):
        is_text = following is not None and following.opname == "STORE_NAME" and following.argval in _TEXT
        # Python 3.11 and 3.12 give the index of a call's keyword names, and not the names.
        value = code.co_consts[step.arg or 0] if step.opname == "KW_NAMES" else step.argval
        steps += [step.opname] if is_text else [step.opname, value]
    return [*steps, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]


def used_names(code: CodeType) -> Names:
    """Find the names that code and the code nested in it use."""
    found = Names(set(), set(), [])
    for nested in _nested(code):
        instructions = list(dis.get_instructions(nested))
        for index, step in enumerate(instructions):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                found.globals.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                # The compiler pushes the level and the names just before.
                level, names = (earlier.argval for earlier in instructions[index - 2 : index])
                found.imports.append((step.argval, tuple(names or ()), int(level or 0)))
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                found.attributes.add(step.argval)
    return found


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
