"""Find whether a model treats each row by itself: predictions, losses that layers add, and what layers remember.

Runs in rank processes; compares what a `Probe` measured on some rows with what it measured on parts of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sparkdl.train.exact.findings import Inexact
from sparkdl.train.exact.rounding import differ, tolerance_of
from sparkdl.train.exact.state.moving_state import LayerState, find_reductions
from sparkdl.train.exactness.probe import Cut

__all__ = ["added_losses", "mixing", "model_tolerance", "state_reductions"]


def model_tolerance(model: Any) -> float:
    """Return how far predictions of a row may differ, relative to the largest: the rounding of all layers."""
    return 10 * tolerance_of(getattr(model, "compute_dtype", None) or keras.config.floatx())


def mixing(model: Any, cut: Cut) -> list[Inexact]:
    """Find whether a row's prediction depends on the other rows."""
    for index, values in enumerate(cut.whole.predictions):
        whole = np.asarray(values, np.float64)
        scale = float(np.abs(whole[np.isfinite(whole)]).max(initial=0.0))
        own = [np.asarray(part.predictions[index], np.float64) for part in cut.parts]
        if any(
            one.ndim == 0 or one.shape[1:] != whole.shape[1:] or len(one) != part.rows
            for one, part in zip(own, cut.parts, strict=True)
        ):
            reason = "gives outputs whose shape depends on the other rows of the batch"
        elif differ(whole, np.concatenate(own), scale=scale, tolerance=model_tolerance(model)):
            reason = "gives a row another prediction among other rows: a layer looks at the whole batch"
        else:
            continue
        return [Inexact(f"model {model.name!r}", reason, "let each layer look at one row at a time")]
    return []


def added_losses(model: Any, cut: Cut) -> list[Inexact]:
    """Find whether losses that layers add, and the loss of the model's own compute_loss, are means over rows.

    A regularizer is the same for any rows, and so a mean over rows as well.
    """
    rows = np.array([part.rows for part in cut.parts])
    of_all = [("add_loss", cut.whole.added[index], index) for index in range(len(cut.whole.added))]
    if cut.whole.own_loss is not None:
        of_all.append(("compute_loss", np.float64(cut.whole.own_loss), -1))
    for kind, value, index in of_all:
        if kind == "compute_loss":
            own = np.array([part.own_loss for part in cut.parts], np.float64)
        else:
            own = np.array([part.added[index] if index < len(part.added) else np.nan for part in cut.parts])
        mean = float((own * rows).sum() / rows.sum())
        scale = max(float((np.abs(own) * rows).sum() / rows.sum()), abs(float(value)))
        if differ(np.array(value), np.array(mean), scale=scale, tolerance=model_tolerance(model)):
            listed = ", ".join(f"{one:.6g} of {count}" for one, count in zip(own, rows, strict=True))
            reason = f"is not a mean over rows: it is {value:.6g} for {cut.whole.rows} rows, and {listed} of them"
            return [Inexact(f"{kind} of model {model.name!r}", reason, "make it a mean over rows")]
    return []


def state_reductions(
    states: Sequence[LayerState], before: Sequence[np.ndarray], cut: Cut
) -> tuple[list[Inexact], list[tuple[str, ...]]]:
    """Find the reductions that give each state variable, and the variables that no reduction gives."""
    unknown: list[Inexact] = []
    possible: list[tuple[str, ...]] = []
    for index, state in enumerate(states):
        after = [part.states[index] for part in cut.parts]
        found = find_reductions(before[index], cut.whole.states[index], after, [part.rows for part in cut.parts])
        if state.reduction is not None:
            found = (state.reduction,)
        elif not found:
            unknown.append(
                Inexact(
                    f"state {state.name}",
                    "is not the mean, sum, largest or smallest of the states that parts of the rows leave",
                    "set sparkdl_reduction = 'sum', 'mean', 'max' or 'min' on the layer's class if that is meant",
                )
            )
        possible.append(found)
    return unknown, possible
