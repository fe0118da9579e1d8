"""Draw charts as SVG, for a page that needs no network. Pure.

Runs on the driver. Colours are CSS classes (`c0`, `c1`, …) of the page's style sheet, which has a light and a dark
scheme.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence

__all__ = ["as_xml", "label", "line_chart", "number", "stacked_bars", "ticks"]

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 26
BAR_HEIGHT, BAR_GAP, BAR_LEFT, BAR_RIGHT = 14, 4, 150, 110
MAX_LABEL = 22
# A curve of more points than this has no dots, and shows no value under the pointer.
MAX_DOTS = 100
# Larger values are not drawn, because their difference may be infinite.
LARGEST = 1e300

# Characters that XML does not allow, even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_xml(value: str) -> str:
    """Replace the characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", value)


def text(value: object) -> str:
    """Escape a user's value for HTML and SVG."""
    return html.escape(as_xml(str(value)))


def label(value: str) -> str:
    """Escape a user's text for HTML and SVG, cut to the width of a chart's label."""
    return text(value if len(value) <= MAX_LABEL else f"{value[: MAX_LABEL - 1]}…")


def number(value: float) -> str:
    """Format a number for people: `41,200`, `0.4312`, `nan`."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Return at most `most` round numbers, or whole ones, from `low` to `high`; `low` < `high`."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = max(step, 1.0) if whole else step
    for factor in (1, 2, 5, 10):
        first, last = math.ceil(low / (step * factor)), math.floor(high / (step * factor))
        if last - first < most:
            break
    return [multiple * step * factor for multiple in range(first, last + 1)]


def line_chart(curves: Mapping[str, Sequence[float | None]], epochs: Sequence[int], *, title: str, zero: bool) -> str:
    """Draw curves over epochs. A value that is not a finite number leaves a gap; the line goes on over an epoch without
    a value (None), as one without validation.

    Args:
        curves: the curves by name, each with a value or None for every epoch.
        epochs: the epochs, counted from 1, rising.
        title: a description of the chart for screen readers.
        zero: whether the axis begins at 0.
    """
    runs = {name: _runs(epochs, values) for name, values in curves.items()}
    drawn = [value for of_curve in runs.values() for run in of_curve for _, value in run]
    if not drawn:
        return '<p class="note">no finite values</p>'
    low, high = _range(drawn, zero=zero)
    first, last = (epochs[0], epochs[-1]) if len(epochs) > 1 else (epochs[0] - 1, epochs[0] + 1)

    def x(epoch: float) -> str:
        return f"{LEFT + (epoch - first) / (last - first) * (WIDTH - LEFT - RIGHT):.1f}"

    def y(value: float) -> str:
        return f"{HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">']
    marks = ticks(low, high)
    for tick in marks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        said = _tick_label(tick, step=marks[-1] - marks[-2])
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y(tick)}" dy="4" text-anchor="end">{said}</text>')
    for tick in ticks(first, last, whole=True):
        if epochs[0] <= tick <= epochs[-1]:
            parts.append(f'<text class="tick" x="{x(tick)}" y="{HEIGHT - 8}" text-anchor="middle">{tick:.0f}</text>')
    for index, (name, of_curve) in enumerate(runs.items()):
        with_dots = sum(map(len, of_curve)) <= MAX_DOTS
        for run in of_curve:
            points = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in run)
            parts.append(f'<polyline class="line c{index}" points="{points}"/>')
            for epoch, value in run if with_dots or len(run) == 1 else ():
                said = f"<title>{text(name)}, epoch {epoch}: {number(value)}</title>"
                parts.append(f'<circle class="dot c{index}" cx="{x(epoch)}" cy="{y(value)}" r="2.5">{said}</circle>')
    return "".join([*parts, "</svg>"])


def stacked_bars(rows: Sequence[tuple[str, str, Sequence[float]]], *, names: Sequence[str], title: str) -> str:
    """Draw a bar of several parts for each row.

    Args:
        rows: for each bar the text before it, the text behind it, and its parts, not negative.
        names: the names of the parts.
        title: a description of the chart for screen readers.
    """
    longest = max((sum(parts) for _, _, parts in rows), default=0.0) or 1.0
    height = len(rows) * (BAR_HEIGHT + BAR_GAP)
    scale = (2 * WIDTH - BAR_LEFT - BAR_RIGHT) / longest
    drawn = [f'<svg viewBox="0 0 {2 * WIDTH} {height}" role="img" aria-label="{text(title)}">']
    for index, (before, behind, parts) in enumerate(rows):
        top, left = index * (BAR_HEIGHT + BAR_GAP), float(BAR_LEFT)
        middle = top + BAR_HEIGHT / 2
        drawn.append(
            f'<text class="tick" x="{BAR_LEFT - 6}" y="{middle}" dy="4" text-anchor="end">{label(before)}</text>'
        )
        for part, (name, value) in enumerate(zip(names, parts, strict=True)):
            said = f"<title>{text(before)}, {text(name)}: {number(value)} s</title>"
            drawn.append(
                f'<rect class="bar c{part}" x="{left:.1f}" y="{top}" width="{value * scale:.1f}" height="{BAR_HEIGHT}">'
                f"{said}</rect>"
            )
            left += value * scale
        drawn.append(f'<text class="tick" x="{left + 6:.1f}" y="{middle}" dy="4">{label(behind)}</text>')
    return "".join([*drawn, "</svg>"])


def _tick_label(tick: float, *, step: float) -> str:
    """Format a tick with as many digits as distinguish it from the next tick."""
    if step >= 1e-4 and abs(tick) < 1e9:
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    digits = 1 if tick == 0 else math.floor(math.log10(abs(tick))) - math.floor(math.log10(step) + 1e-9) + 1
    return f"{tick:.{min(max(digits, 1), 9)}g}"


def _range(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    """Return the ends of an axis that holds all values; the lower end is strictly less than the upper."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if zero else low
    largest = max(abs(low), abs(high))
    room = (high - low) * 0.05
    if room <= largest * 1e-9:
        room = max(largest * 0.1, 1e-300)
    return (low if zero and low == 0 else low - room), high + room


def _runs(epochs: Sequence[int], values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Return the points of a curve, divided where a value cannot be drawn; None is the absence of a value."""
    runs: list[list[tuple[int, float]]] = [[]]
    for epoch, value in zip(epochs, values, strict=True):
        if value is None:
            continue
        if abs(value) < LARGEST:
            runs[-1].append((epoch, float(value)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
