"""Make labels and predictions on which a function shows whether it is a mean over rows.

Pure; runs in rank processes. Rows of a dataset may hide what a function does: a rare class may not be among them, a new
model may give the same prediction for all rows. So labels and predictions are drawn anew as well, within the bounds of
the dataset's: codes of classes stay codes, probabilities stay probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["ROWS", "Trial", "make_trials", "partitions"]

ROWS = 16
"""Rows of a trial, where a row is not large."""

# Bytes of labels and predictions of a trial together, in float64: masks and images take fewer rows.
TRIAL_BYTES = 64 << 20
LEAST_ROWS = 4

# Factors of labels and predictions that have a scale.
SCALES = (1e-4, 1e4)
# Probabilities and other bounded values keep this share of their range away from its ends, where logarithms end.
MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Trial:
    """Hold labels and predictions of the same rows, float64, each of shape ``(rows, *shape)``."""

    y_true: np.ndarray
    y_pred: np.ndarray


def make_trials(y_true: np.ndarray, y_pred: np.ndarray) -> Iterator[Trial]:
    """Make trials from the labels and predictions of rows of the dataset.

    Args:
        y_true: shape ``(rows, *shape)``, with at least one row.
        y_pred: shape ``(rows, *shape)``; values that are not finite are drawn anew.

    Yields:
        The dataset's rows; their labels with drawn predictions; drawn labels with the rows' and with drawn predictions;
        drawn labels of which one alone differs; and, where labels and predictions have a scale, drawn ones of other
        scales.
    """
    rng = np.random.default_rng(0)
    row_bytes = 8 * (y_true[:1].size + y_pred[:1].size)
    most = max(LEAST_ROWS, TRIAL_BYTES // max(row_bytes, 1))
    y_true, y_pred = (np.asarray(values[:most], dtype=np.float64) for values in (y_true, y_pred))
    rows = min(ROWS, most)
    labels, predictions = _Labels(y_true, y_pred, rng, rows), _Predictions(y_pred, rng, rows)
    # Every row once, and some again where there are fewer than a trial has.
    chosen = np.arange(max(rows, len(y_true))) % len(y_true)
    yield Trial(y_true[chosen], predictions.finite()[chosen])
    yield Trial(y_true[rng.permutation(chosen)[:rows]], predictions.draw())
    yield Trial(labels.draw(), predictions.finite()[rng.permutation(chosen)[:rows]])
    drawn = Trial(labels.draw(), predictions.draw())
    yield drawn
    yield Trial(labels.draw_rare(), predictions.draw())
    if labels.have_scale and predictions.have_scale:
        for scale in SCALES:
            yield Trial(drawn.y_true * scale, drawn.y_pred * scale)


def is_simplex(values: np.ndarray) -> bool:
    """Tell whether the last axis holds probabilities of classes: none negative, each row with the sum 1."""
    if values.ndim < 2 or values.shape[-1] < 2 or not values.size:
        return False
    return bool((values >= 0).all() and np.allclose(values.sum(-1), 1, atol=1e-2))


class _Labels:
    """Draw labels like those of the dataset's rows."""

    def __init__(self, y_true: np.ndarray, y_pred: np.ndarray, rng: np.random.Generator, rows: int) -> None:
        self._rng = rng
        self._shape = (rows, *y_true.shape[1:])
        finite = y_true[np.isfinite(y_true)]
        self._low, self._high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        self._std = float(finite.std()) if finite.size else 1.0
        self._simplex = is_simplex(y_true)
        whole = bool(finite.size and (finite == np.round(finite)).all())
        self._one_hot = self._simplex and whole
        self._codes = self._code_range(y_true, y_pred) if whole and not self._one_hot else None

    @property
    def have_scale(self) -> bool:
        """True if the labels are amounts, and neither codes nor probabilities."""
        return self._codes is None and not self._simplex and not (self._low >= 0 and self._high <= 1)

    def _code_range(self, y_true: np.ndarray, y_pred: np.ndarray) -> tuple[int, ...]:
        """List the whole numbers that labels may be; () where the range is larger than 1000."""
        low, high = int(self._low), int(self._high)
        if low == -1 and high <= 1 and not (y_true == 0).any():
            return (-1, 1)
        classes = y_pred.shape[-1] if y_pred.ndim > 1 else 1
        of_classes = y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1 or y_true.ndim == 1
        if low >= 0 and classes > 1 and of_classes and high < classes:
            return tuple(range(classes))
        if low >= 0 and high <= 1:
            return (0, 1)
        if high - low > 1000:
            return ()
        return tuple(range(low, max(high, low + 1) + 1))

    def draw(self) -> np.ndarray:
        """Draw labels, shape ``(rows, *shape)``."""
        rng, shape = self._rng, self._shape
        if self._one_hot:
            return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
        if self._simplex:
            return _drawn_simplex(rng, shape)
        if self._codes:
            drawn = rng.choice(self._codes, size=shape)
            if len(shape) == 1 or np.prod(shape[1:]) == 1:
                # Each of a few classes occurs, each another number of times as a rule.
                drawn.reshape(-1)[: min(len(self._codes), shape[0])] = self._codes[: shape[0]]
            return rng.permutation(drawn).astype(np.float64)
        if self._codes == ():
            return np.round(rng.uniform(self._low, self._high, shape))
        if self._low >= 0 and self._high <= 1:
            return rng.uniform(0, 1, shape)
        spread = self._std or abs(self._high) or 1.0
        if self._low >= 0:
            return spread * np.exp(rng.normal(size=shape))
        return (self._low + self._high) / 2 + spread * rng.normal(size=shape)

    def draw_rare(self) -> np.ndarray:
        """Draw labels of which one row's alone differ from all others, shape ``(rows, *shape)``."""
        drawn = self.draw()
        common = drawn[:1].repeat(len(drawn), axis=0)
        other = next((row for row in drawn[1:] if (row != drawn[0]).any()), drawn[0])
        common[int(self._rng.integers(len(drawn)))] = other
        return common


class _Predictions:
    """Draw predictions like those of the dataset's rows."""

    def __init__(self, y_pred: np.ndarray, rng: np.random.Generator, rows: int) -> None:
        self._rng = rng
        self._real = y_pred
        self._shape = (rows, *y_pred.shape[1:])
        finite = y_pred[np.isfinite(y_pred)]
        self._low, self._high = (float(finite.min()), float(finite.max())) if finite.size else (-2.0, 2.0)
        self._std = float(finite.std()) if finite.size else 1.0
        self._simplex = is_simplex(y_pred)

    @property
    def have_scale(self) -> bool:
        """True if predictions are amounts, and neither probabilities nor other bounded values."""
        return not (self._simplex or (self._low >= -1 and self._high <= 1))

    def finite(self) -> np.ndarray:
        """Return the dataset's rows' predictions, those that are not finite drawn anew, shape ``(rows, *shape)``."""
        bad = ~np.isfinite(self._real)
        return np.where(bad, self._rng.uniform(MARGIN, 1 - MARGIN, self._real.shape), self._real)

    def draw(self) -> np.ndarray:
        """Draw predictions, shape ``(rows, *shape)``."""
        rng, shape = self._rng, self._shape
        if self._simplex:
            return _drawn_simplex(rng, shape)
        if self._low >= -1 and self._high <= 1:
            return rng.uniform(MARGIN if self._low >= 0 else MARGIN - 1, 1 - MARGIN, shape)
        spread = max(self._std, 0.5 * max(abs(self._low), abs(self._high)))
        if self._low >= 0:
            return spread * np.exp(rng.normal(size=shape))
        return (self._low + self._high) / 2 + spread * rng.normal(size=shape)


def _drawn_simplex(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    chances = np.exp(1.5 * rng.normal(size=shape))
    return chances / chances.sum(-1, keepdims=True)


def partitions(rows: int) -> Iterator[list[np.ndarray]]:
    """Divide rows into parts of several sizes, twice: each part holds the indexes of its rows, in a drawn order.

    No part has a single row: functions that drop axes of length 1 would take the rows for such an axis.
    """
    rng = np.random.default_rng(0)
    for shares in ((2, 5, 10), (3, 7)):
        order = rng.permutation(rows)
        cuts: list[int] = []
        for share in shares:
            cut = max((cuts[-1] if cuts else 0) + 2, rows * share // 16)
            cuts += [cut] if cut <= rows - 2 else []
        yield np.split(order, cuts)
