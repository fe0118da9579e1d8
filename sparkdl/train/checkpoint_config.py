"""When a run keeps its state.

Runs on the driver; the values travel to ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparkdl.checks import named_options, require, require_positive
from sparkdl.errors import shown

__all__ = ["CheckpointConfig"]

MODES = ("auto", "min", "max")


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When a run keeps its state, and how much of it. It never changes the result.

    Raises ConfigError for a value out of range.
    """

    every_epochs: int = 1
    """After each so many epochs, and after the last one."""

    every_steps: int | None = None
    """Also after each so many steps of an epoch: what a restart has to do again at most."""

    keep: int = 3
    """How many of the newest stay."""

    monitor: str | None = None
    """A name in the history, such as "val_loss": the model of the epoch where it is best is kept as
    `result.best_model_dir`."""

    mode: str = "auto"
    """Whether the best value of `monitor` is the "min" or the "max"; "auto" takes what Keras' metric states, and the
    smallest of a loss. For a figure of the user's own, whose direction nothing states, "auto" is refused."""

    def __post_init__(self) -> None:
        require_positive("checkpoint.every_epochs", self.every_epochs)
        if self.every_steps is not None:
            require_positive("checkpoint.every_steps", self.every_steps)
        require_positive("checkpoint.keep", self.keep)
        good = self.monitor is None or (isinstance(self.monitor, str) and self.monitor != "")
        require(good, f"checkpoint.monitor={shown(self.monitor)} must be a name in the history, or None")
        require(self.mode in MODES, f"checkpoint.mode={shown(self.mode)} must be one of {', '.join(MODES)}")
