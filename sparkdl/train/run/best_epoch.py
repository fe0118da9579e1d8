"""Which of two epochs is the better one, by a value of the history. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sparkdl.errors import near_miss

__all__ = ["best_value", "direction_of", "is_better", "unknown_direction", "unknown_monitor"]


def is_better(value: float, best: float | None, *, direction: str) -> bool:
    """Whether a value is better than the best so far, "min" or "max"; what is not a number never is."""
    if value != value:
        return False
    return best is None or (value > best if direction == "max" else value < best)


def best_value(history: Sequence[Mapping[str, Any]], monitor: str, direction: str) -> float | None:
    """The best value of a figure in a history; None where no epoch has a number for it."""
    best: float | None = None
    for record in history:
        value = record.get(monitor)
        if isinstance(value, (int, float)) and is_better(value, best, direction=direction):
            best = float(value)
    return best


def direction_of(monitor: str, mode: str, known: Mapping[str, str | None]) -> str | None:
    """Whether the "min" or the "max" of a figure is its best; None for one whose direction nothing tells.

    Args:
        monitor: the figure's name in the history.
        mode: "min" and "max" count; "auto" asks what is known.
        known: by the names of the model's metrics, the direction that each of them states, or None.
    """
    if mode != "auto":
        return mode
    name = monitor.removeprefix("val_")
    if (stated := known.get(name)) is not None:
        return stated
    # Each output's loss ends so; what else a name holds says nothing.
    return "min" if name == "loss" or name.endswith("_loss") else None


def unknown_direction(monitor: str) -> str:
    """The error of a figure whose direction nothing tells."""
    return (
        f"checkpoint.monitor={monitor!r} says not whether its best value is the smallest or the largest; use "
        "checkpoint.mode='min' or 'max'"
    )


def unknown_monitor(monitor: str | None, given: Collection[str]) -> str | None:
    """The error of a monitor that is not among the figures that the model gives; None if it is."""
    if monitor is None or monitor in given:
        return None
    return f"checkpoint.monitor={monitor!r} is not in the history{near_miss(monitor, given)}"
