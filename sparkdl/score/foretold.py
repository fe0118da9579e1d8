"""Predict what scoring would do with its output, for dry runs.

Driver. Nothing is changed: an output that a killed run moved aside is read where it is.
"""

from __future__ import annotations

import os

from sparkdl import storage
from sparkdl.score.commit import finished, is_half, replaced_folder

__all__ = ["foretold"]


def foretold(out: str, made_of: str | None, if_exists: str) -> str:
    """Return "finished" if scoring would reuse the output, "replaced" if it would replace predictions, else "new".

    Raises ConfigError as `finished` does: an output that may not be replaced is an error.
    """
    there = _output_folder(out)
    if finished(out, made_of, if_exists, there=there) is not None:
        return "finished"
    names = storage.listing(there)
    # Scoring deletes the files of a killed commit to an object store, whatever they were to replace.
    return "replaced" if names and not is_half(names) else "new"


def _output_folder(out: str) -> str:
    """Return the folder that holds the output, or the folder that `put_back` would give the output's name again."""
    if not storage.is_local(out) or storage.listing(out):
        return out
    aside = replaced_folder(os.path.realpath(out))
    return aside if os.path.isdir(aside) else out
