"""Tell what scoring would do with its output, for dry runs.

Driver. Nothing is changed: what a killed run moved aside is looked at where it lies.
"""

from __future__ import annotations

import os

from sparkdl import storage
from sparkdl.score.commit import finished, is_half, replaced_folder

__all__ = ["foretold"]


def foretold(out: str, made_of: str | None, if_exists: str) -> str:
    """What scoring would find at `out`: "finished", what it would reuse; "replaced", other predictions; "new", neither.

    Raises ConfigError as `finished` does: what may not be replaced is an error.
    """
    there = _lies_at(out)
    if finished(out, made_of, if_exists, there=there) is not None:
        return "finished"
    names = storage.listing(there)
    # What a killed commit to an object store left is taken back, whatever it was to replace.
    return "replaced" if names and not is_half(names) else "new"


def _lies_at(out: str) -> str:
    """The folder that holds the output, or that `put_back` would give its name again."""
    if not storage.is_local(out) or storage.listing(out):
        return out
    aside = replaced_folder(os.path.realpath(out))
    return aside if os.path.isdir(aside) else out
