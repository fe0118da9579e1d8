"""Charts as SVG, for a page that opens without any network. Pure.

Runs on the driver. Colours are classes (`c0`, `c1`, …) of the page's style sheet, so that it decides about light and
dark.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence

__all__ = ["label", "line_chart", "number", "stacked_bars", "text", "ticks"]

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 26
BAR_HEIGHT, BAR_GAP, BAR_LEFT, BAR_RIGHT = 14, 4, 150, 110
MAX_LABEL = 22
# Beyond so many points a curve gets no dots, and no value under the pointer.
MAX_DOTS = 100
# The difference of larger values may be infinite.
LARGEST = 1e300

# What XML does not allow, even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(value: object) -> str:
    """What a user gave, as it may stand in HTML and SVG."""
    return html.escape(_NOT_XML.sub("\ufffd", str(value)))


def label(value: str) -> str:
    """The same, short enough for its place in a chart."""
    return text(value if len(value) <= MAX_LABEL else f"{value[: MAX_LABEL - 1]}…")


def number(value: float) -> str:
    """A number to read: `41,200`, `0.4312`, `nan`."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, at most so many; `low` < `high`.

    whole: whole numbers alone.
    """
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = max(step, 1.0) if whole else step
    for factor in (1, 2, 5, 10):
        first, last = math.ceil(low / (step * factor)), math.floor(high / (step * factor))
        if last - first < most:
            break
    return [place * step * factor for place in range(first, last + 1)]


def line_chart(curves: Mapping[str, Sequence[float | None]], epochs: Sequence[int], *, title: str, zero: bool) -> str:
    """Curves over epochs. What is no finite number leaves a gap.

    Args:
        curves: by name, each with a value for every epoch.
        epochs: as users count them, rising.
        title: what is shown, for those who cannot see it.
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
    for place, (name, of_curve) in enumerate(runs.items()):
        with_dots = sum(map(len, of_curve)) <= MAX_DOTS
        for run in of_curve:
            points = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in run)
            parts.append(f'<polyline class="line c{place}" points="{points}"/>')
            for epoch, value in run if with_dots or len(run) == 1 else ():
                said = f"<title>{text(name)}, epoch {epoch}: {number(value)}</title>"
                parts.append(f'<circle class="dot c{place}" cx="{x(epoch)}" cy="{y(value)}" r="2.5">{said}</circle>')
    return "".join([*parts, "</svg>"])


def stacked_bars(rows: Sequence[tuple[str, str, Sequence[float]]], *, names: Sequence[str], title: str) -> str:
    """A bar for each row, of several parts.

    Args:
        rows: what stands before a bar, what stands behind it, and its parts, none negative.
        names: of the parts.
        title: what is shown, for those who cannot see it.
    """
    longest = max((sum(parts) for _, _, parts in rows), default=0.0) or 1.0
    height = len(rows) * (BAR_HEIGHT + BAR_GAP)
    scale = (2 * WIDTH - BAR_LEFT - BAR_RIGHT) / longest
    drawn = [f'<svg viewBox="0 0 {2 * WIDTH} {height}" role="img" aria-label="{text(title)}">']
    for place, (before, behind, parts) in enumerate(rows):
        top, left = place * (BAR_HEIGHT + BAR_GAP), float(BAR_LEFT)
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
    """As many digits as tell one tick from the next."""
    if step >= 1e-4 and abs(tick) < 1e9:
        return f"{tick:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    digits = 1 if tick == 0 else math.floor(math.log10(abs(tick))) - math.floor(math.log10(step) + 1e-9) + 1
    return f"{tick:.{min(max(digits, 1), 9)}g}"


def _range(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    """The ends of an axis with all values in it; the one is truly less than the other."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if zero else low
    largest = max(abs(low), abs(high))
    room = (high - low) * 0.05
    if room <= largest * 1e-9:
        room = max(largest * 0.1, 1e-300)
    return (low if zero and low == 0 else low - room), high + room


def _runs(epochs: Sequence[int], values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The points of a curve, divided where there is nothing to draw."""
    runs: list[list[tuple[int, float]]] = [[]]
    for epoch, value in zip(epochs, values, strict=True):
        if value is not None and abs(value) < LARGEST:
            runs[-1].append((epoch, float(value)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
