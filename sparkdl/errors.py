"""Define the errors of the library, by cause.

Raised everywhere: on the driver, in Spark workers and in rank processes.

    SparkDLError
    +-- ConfigError (ValueError)    an option or a call is wrong
    +-- DatasetError                a prepared dataset is missing, damaged or cannot be made
    +-- SchemaError (TypeError)     a column's type, shape or content is not what was declared
    +-- LaunchError                 the ranks could not be started
    +-- WorkerError                 a rank failed; carries rank, host, traceback and last output
    +-- CheckpointError             a run directory or a checkpoint cannot be used
    +-- ModelError                  a model cannot be trained, saved, loaded or scored

Each message is one line: the name, the value, the limit and the way out. Every error survives pickling.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "LaunchError",
    "ModelError",
    "SchemaError",
    "SparkDLError",
    "WorkerError",
    "near_miss",
    "shown",
]

# Values in messages come from the user's data: show enough to recognise a value, never a whole document.
SHOWN_CHARACTERS = 80
# The length of a list of known names: a table may have a thousand columns.
KNOWN_CHARACTERS = 200


class SparkDLError(Exception):
    """Report any error of this library."""


class ConfigError(SparkDLError, ValueError):
    """Report a wrong option or combination of options."""


class DatasetError(SparkDLError):
    """Report a prepared dataset that is missing, damaged, or cannot be made from this input."""


class SchemaError(SparkDLError, TypeError):
    """Report a column whose type, shape or content is not what the features declare.

    Attributes:
        rows: the wrong rows of the encoded column, by number, each with a description of the mistake; empty if the
            column as a whole is wrong.
    """

    def __init__(self, message: str, rows: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.rows = dict(rows or {})


class LaunchError(SparkDLError):
    """Report that the ranks could not be started."""


class WorkerError(SparkDLError):
    """Report a rank that failed while it ran.

    Attributes:
        kind: the kind of failure: "exception", "exit" (its process ended by itself), "signal", "lost" (its executor,
            its host or the network to it), "stall" (no progress) or "returned" (while others waited for it).
        rank: the rank whose failure is the cause (never one that only lost its peer).
        host: the host that the rank ran on.
        remote_traceback: the rank's Python traceback, or "" if the process died without one.
        last_lines: the last lines (at most 100) that the rank printed.
    """

    def __init__(
        self,
        message: str,
        rank: int = -1,
        host: str = "",
        remote_traceback: str = "",
        last_lines: str = "",
        kind: str = "exception",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.rank = rank
        self.host = host
        self.remote_traceback = remote_traceback
        self.last_lines = last_lines

    def __reduce__(self) -> tuple[type[WorkerError], tuple[str, int, str, str, str, str]]:
        # Exception's own pickling calls the class with the message alone and would lose the rest.
        return type(self), (str(self.args[0]), self.rank, self.host, self.remote_traceback, self.last_lines, self.kind)


class CheckpointError(SparkDLError):
    """Report a run directory, or a checkpoint in it, that cannot be used."""


class ModelError(SparkDLError):
    """Report a model that cannot be trained, saved, loaded or scored."""


def shown(value: object) -> str:
    """Return at most 80 characters of the value's repr, for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return a hint `; did you mean 'epochs'?` for a misspelt name, or the known names if no name is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {shown(close[0])}?"
    listed = ", ".join(names)
    return f"; known: {listed if len(listed) <= KNOWN_CHARACTERS else listed[: KNOWN_CHARACTERS - 1] + '…'}"
