"""Hold the options that all ways of scoring share.

Checked on the driver, before a model is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparkdl.checks import require, require_whole
from sparkdl.errors import SchemaError, shown
from sparkdl.model.custom_objects import check_custom_objects

__all__ = ["DEFAULT_BATCH_SIZE", "ScoreOptions"]

DEFAULT_BATCH_SIZE = 1024
CHOICES = {"returns": ("raw", "class", "top_k"), "on_error": ("raise", "null"), "device": ("auto", "cpu", "gpu")}


@dataclass(frozen=True)
class ScoreOptions:
    """Hold the options of scoring, which `predict_udf`, `transform` and `score_parquet` describe.

    Raises ConfigError for a wrong value.
    """

    returns: str = "raw"
    k: int = 5
    batch_size: int = DEFAULT_BATCH_SIZE
    on_error: str = "raise"
    device: str = "auto"
    custom_objects: Mapping[str, Any] | None = None
    safe_mode: bool = True
    output_col: str = "prediction"
    keep: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            require(value in choices, f"{name}={shown(value)} must be one of {', '.join(choices)}")
        require_whole("k", self.k)
        require_whole("batch_size", self.batch_size)
        check_custom_objects(self.custom_objects)
        good = isinstance(self.output_col, str) and self.output_col != ""
        require(good, f"output_col={shown(self.output_col)} must be the name of a column")
        if self.keep is not None:
            listed = isinstance(self.keep, Iterable) and not isinstance(self.keep, str)
            good = listed and all(isinstance(name, str) for name in self.keep)
            require(good, f"keep={shown(self.keep)} must be a list of columns")

    def new_columns(self, others: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the columns to add: the prediction and, for `on_error="null"`, the error.

        Raises SchemaError if one of `others`, the columns beside them, has such a name in upper or lower case, which
        Spark does not distinguish.
        """
        names = (self.output_col, f"{self.output_col}_error") if self.on_error == "null" else (self.output_col,)
        taken = [other.lower() for other in others]
        for name in names:
            if name.lower() in taken:
                raise SchemaError(f"the input already has a column {name!r}; choose another output_col")
        return names
