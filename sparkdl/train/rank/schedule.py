"""Divide the steps of a run into epochs, and find them in the passes over the rows. Pure; used in rank processes."""

from __future__ import annotations

from dataclasses import dataclass

from sparkdl.train.run.checkpoint import Position

__all__ = ["Schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Describe the epochs of a run.

    A pass takes every row once. The steps of all passes are one sequence, and an epoch is the next `steps` of it: a
    pass, unless `TrainConfig.steps_per_epoch` gives another number.

    Attributes:
        epochs: the number of epochs after which the run ends.
        steps: the steps of one epoch.
        steps_of_pass: the steps of one pass.
        validation_every: the number of epochs between two validations.
    """

    epochs: int
    steps: int
    steps_of_pass: int
    validation_every: int = 1

    def validates(self, epoch: int) -> bool:
        """Tell whether an epoch, from 0, that ends at its last step ends with a validation."""
        return (epoch + 1) % self.validation_every == 0 or epoch + 1 == self.epochs

    def passes_from(self, position: Position) -> tuple[range, int]:
        """Return the passes in which the steps from a position on lie, and the step of the first pass to begin with."""
        first = position.epoch * self.steps + position.step
        end = -(-self.epochs * self.steps // self.steps_of_pass)
        return range(first // self.steps_of_pass, end), first % self.steps_of_pass
