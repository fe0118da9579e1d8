"""Find whether a function of labels and predictions is a mean over rows, by trying it.

Runs in rank processes; knows functions and arrays, nothing of models. A step is exact over ranks if its loss is a sum
over rows divided by a number that is known. Whether a function is such a sum cannot be read off it, so the function is
tried on trials and on parts of their rows: a value for each row must not depend on the other rows; a single value for
all rows must be the mean of the parts' values, weighted by the parts' rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sparkdl.train.exact.rounding import differ, tolerance_of
from sparkdl.train.exactness.trials import Trial, partitions

__all__ = ["RowForm", "find_form", "form_of_parts"]


@dataclass(frozen=True, slots=True)
class RowForm:
    """Describe the form of a function's value.

    Attributes:
        kind: "rows" (a value, or several, for each row), "mean" (one value, the mean over rows) or "batch" (neither).
        reason: for "batch", the numbers that prove that form, or the error or values that hide the numbers.
    """

    kind: str
    reason: str = ""


def find_form(function: Callable[[np.ndarray, np.ndarray], np.ndarray], trials: Iterable[Trial]) -> RowForm:
    """Find the form of a function's value.

    Args:
        function: takes labels and predictions, each of shape ``(rows, *shape)``; returns values of any shape.
        trials: as made by `make_trials`; the first one holds rows of the dataset.

    Raises what the function raises on the rows of the dataset.
    """
    forms = []
    for number, trial in enumerate(trials):
        try:
            whole = function(trial.y_true, trial.y_pred)
        except Exception:
            if number == 0:
                raise
            continue  # the function refuses drawn values
        form = _form_of(function, trial, whole)
        if form is not None and form.kind == "batch":
            return form
        forms += [form] if form is not None else []
    kinds = {form.kind for form in forms}
    if len(kinds) == 1:
        return forms[0]
    return RowForm("batch", "it gives no finite value for any of the rows tried" if not kinds else "its shape changes")


def _form_of(function: Callable[..., np.ndarray], trial: Trial, whole: np.ndarray) -> RowForm | None:
    """Find the form on one trial; None where the function's values are not finite and prove nothing."""
    form = None
    for parts in partitions(len(trial.y_true)):
        try:
            values = [function(trial.y_true[part], trial.y_pred[part]) for part in parts]
        except Exception as error:
            text = " ".join(str(error).split())
            return RowForm("batch", f"it fails for {len(parts[0])} rows: {type(error).__name__}: {text:.200}")
        form = form_of_parts(whole, values, parts)
        if form is None or form.kind == "batch":
            return form
    return form


def form_of_parts(
    whole: np.ndarray, values: Sequence[np.ndarray], parts: Sequence[np.ndarray], *, tolerance: float | None = None
) -> RowForm | None:
    """Find the form of a function's values for all of some rows and for parts of them.

    `parts`: the indexes of each part's rows among all rows; `tolerance`: relative; None: that of the values' dtype.
    Returns None where the values are not finite and prove nothing.
    """
    tolerance = tolerance_of(whole.dtype) if tolerance is None else tolerance
    lengths = [(whole, sum(map(len, parts))), *((value, len(part)) for value, part in zip(values, parts, strict=True))]
    by_row = all(value.ndim > 0 and len(value) == length for value, length in lengths)
    return (_rows_form if by_row else _mean_form)(whole, values, parts, tolerance)


def _rows_form(
    whole: np.ndarray, values: Sequence[np.ndarray], parts: Sequence[np.ndarray], tolerance: float
) -> RowForm | None:
    """Find the form of values for each row: "rows", or "batch" if other rows change a row's value."""
    if not np.isfinite(whole).any():
        return None
    finite = np.where(np.isfinite(whole), np.abs(whole), 0.0).reshape(len(whole), -1)
    scale = float(finite.max(axis=1, initial=0.0).mean())
    for part, own in zip(parts, values, strict=True):
        if differ(whole[part], own, scale=scale, tolerance=tolerance):
            rows = range(len(part))
            row = next(r for r in rows if differ(whole[part[r]], own[r], scale=scale, tolerance=tolerance))
            return RowForm(
                "batch",
                f"its value of a row is {_text(whole[part[row]])} among {len(whole)} rows and {_text(own[row])} among "
                f"{len(part)} of them",
            )
    return RowForm("rows")


def _mean_form(
    whole: np.ndarray, values: Sequence[np.ndarray], parts: Sequence[np.ndarray], tolerance: float
) -> RowForm | None:
    """Find the form of one value for all rows, or of any number of values: "mean" or "batch"."""
    means = np.array([np.mean(v) if v.size else np.nan for v in values], np.float64)
    of_all = float(np.mean(whole)) if whole.size else np.nan
    rows = np.array([len(part) for part in parts])
    if not (np.isfinite(of_all) and np.isfinite(means).any()):
        return None
    # If a part's value is not finite and that of all rows is, the value is not a sum over rows.
    expected = float(np.sum(means * rows) / rows.sum())
    scale = float(np.sum(np.abs(means) * rows) / rows.sum()) if np.isfinite(means).all() else abs(of_all)
    if differ(np.array(of_all), np.array(expected), scale=max(scale, abs(of_all)), tolerance=tolerance):
        listed = ", ".join(f"{mean:.6g} of {count}" for mean, count in zip(means, rows, strict=True))
        return RowForm("batch", f"it is {of_all:.6g} for {int(rows.sum())} rows, and {listed} of them")
    return RowForm("mean")


def _text(values: np.ndarray) -> str:
    flat = np.ravel(values)
    return f"{flat[0]:.6g}" if flat.size else "nothing"
