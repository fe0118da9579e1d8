"""Compare epochs by a value of the history, and find the best. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sparkdl.errors import near_miss

__all__ = ["best_value", "direction_of", "is_better", "unknown_monitor"]


def is_better(value: float, best: float | None, *, direction: str) -> bool:
    """Tell whether a value is better than the best so far, where "min" or "max" is the best; NaN is never better."""
    if value != value:
        return False
    return best is None or (value > best if direction == "max" else value < best)


def best_value(history: Sequence[Mapping[str, Any]], monitor: str, direction: str) -> float | None:
    """Return the best value of a metric in a history; None if no epoch has a number for the metric."""
    given = (record.get(monitor) for record in history)
    values = [float(value) for value in given if isinstance(value, (int, float)) and not math.isnan(value)]
    return (max if direction == "max" else min)(values, default=None)


def direction_of(monitor: str, mode: str, known: Mapping[str, str | None]) -> str | None:
    """Return "min" or "max", whichever value of a metric is its best; None if the direction is not known.

    `mode`: as in CheckpointConfig; `known`: the direction that each of the model's metrics states, or None, by name.
    """
    if mode != "auto":
        return mode
    name = monitor.removeprefix("val_")
    if (stated := known.get(name)) is not None:
        return stated
    # The name of each output's loss ends in "_loss"; from other names no direction is concluded.
    return "min" if name == "loss" or name.endswith("_loss") else None


def unknown_monitor(monitor: str | None, given: Collection[str]) -> str | None:
    """Build the error message if `monitor` is not among the reported metrics `given`; None if it is."""
    if monitor is None or monitor in given:
        return None
    return f"checkpoint.monitor={monitor!r} is not in the history{near_miss(monitor, given)}"
