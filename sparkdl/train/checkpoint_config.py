"""Configure when a run saves checkpoints. Runs on the driver; the values travel to ranks."""

from __future__ import annotations

from dataclasses import dataclass

from sparkdl.checks import named_options, require, require_whole
from sparkdl.errors import shown

__all__ = ["CheckpointConfig"]

MODES = ("auto", "min", "max")


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """Configure when a run saves checkpoints, and how many it keeps. These options never change the result.

    Raises ConfigError for a value out of range.
    """

    every_epochs: int = 1
    """The number of epochs between two checkpoints; the last epoch has one in any case."""

    every_steps: int | None = None
    """The number of steps between two checkpoints within an epoch, which is the most that a restart repeats; None: no
    checkpoints within epochs."""

    keep: int = 3
    """The number of newest checkpoints that are kept."""

    monitor: str | None = None
    """The name of a metric in the history, such as "val_loss"; the model of the epoch with the best value is kept as
    `result.best_model_dir`. None: no such model is kept."""

    mode: str = "auto"
    """The best value of `monitor`: "min" or "max"; "auto" takes the direction that Keras' metric states, and "min" for
    a loss. "auto" is refused for a user's metric that states no direction."""

    def __post_init__(self) -> None:
        require_whole("checkpoint.every_epochs", self.every_epochs)
        if self.every_steps is not None:
            require_whole("checkpoint.every_steps", self.every_steps)
        require_whole("checkpoint.keep", self.keep)
        good = self.monitor is None or (isinstance(self.monitor, str) and self.monitor != "")
        require(good, f"checkpoint.monitor={shown(self.monitor)} must be a name in the history, or None")
        require(self.mode in MODES, f"checkpoint.mode={shown(self.mode)} must be one of {', '.join(MODES)}")
