"""Which of two epochs is the better one, by a value of the history. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from sparkdl.errors import near_miss

__all__ = ["is_better", "unknown_monitor"]

# Words of the names of metrics that grow as models improve: at a word's end ("miou", "prauc"), or the whole of it.
_LARGER_AT_END = ("acc", "accuracy", "auc", "precision", "recall", "iou")
_LARGER = re.compile(r"f1|f1score|fbeta|fbetascore|r2|r2score")


def is_better(value: float, best: float | None, *, monitor: str, mode: str) -> bool:
    """Whether a value of `monitor` is better than the best so far; what is not a number never is."""
    if value != value:
        return False
    larger = mode == "max" or (mode == "auto" and _grows(monitor))
    return best is None or (value > best if larger else value < best)


def unknown_monitor(monitor: str | None, given: Collection[str]) -> str | None:
    """What is wrong with a monitor that is none of the figures that the model gives; None for nothing."""
    if monitor is None or monitor in given:
        return None
    return f"checkpoint.monitor={monitor!r} is not in the history{near_miss(monitor, given)}"


def _grows(monitor: str) -> bool:
    """Whether a larger value is better, by the name.

    By its words: "r2" is in "tower2_mae", too. Whatever an output's name holds, its loss is a loss.
    """
    # Keras writes IoU as io_u.
    words = re.findall("[a-z0-9]+", monitor.lower().replace("io_u", "iou").replace("f_beta", "fbeta"))
    if words[-1:] == ["loss"]:
        return False
    return any(word.endswith(_LARGER_AT_END) or _LARGER.fullmatch(word) for word in words)
