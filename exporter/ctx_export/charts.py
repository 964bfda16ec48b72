"""Small charts as inline SVG over length in tokens, on a logarithmic axis; colours are the page's CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ctx_runtime.histogram import LengthHistogram

_TEXT = 12
"""Height of a text in pixels; a chart is drawn for the width at which it is shown, and not scaled."""
_CHARACTER = 8
"""Room that a character of it takes across, in pixels."""
_TOP, _BOTTOM = 32, 40
_BARS_PER_DOUBLING = 4


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: for the legend.
        points: `(length, value)`, ascending; at least one.
        style: the CSS class, `a`, `b`, `c`, …
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: str


@dataclass(frozen=True)
class _Scale:
    """Maps values to pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = True

    def __call__(self, value: float) -> float:
        low, high, at = (map(math.log, (self.low, self.high, value))) if self.log else (self.low, self.high, value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def histogram_chart(histogram: LengthHistogram, ends: Sequence[int], *, width: int, height: int = 240) -> str:
    """Inputs by length as bars, and where each bucket ends.

    Args:
        histogram: the traffic.
        ends: the longest length of each bucket, in tokens, ascending.
        width: in pixels.
        height: in pixels.
    """
    longest = max(histogram.longest, ends[-1])
    first, last = int(math.log2(min(histogram.lengths[0], ends[0]))), math.log2(longest + 1)
    steps = np.arange(first * _BARS_PER_DOUBLING, math.ceil(last * _BARS_PER_DOUBLING) + 1)
    edges = np.unique(np.round(2 ** (steps / _BARS_PER_DOUBLING)).astype(int))
    counts, _ = np.histogram(histogram.lengths, edges, weights=histogram.counts)
    x = _Scale(float(edges[0]), float(edges[-1]), 44, width - 18)
    y = _Scale(0, float(counts.max()), height - _BOTTOM, _TOP, log=False)
    bars = [
        f'<rect class="bar" x="{x(low):.1f}" y="{y(count):.1f}" width="{max(1.0, x(high) - x(low) - 1):.1f}" '
        f'height="{y(0) - y(count):.1f}"><title>{low} to {high - 1} tokens: {count:,.0f} inputs</title></rect>'
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    marks = _bucket_ends(x, ends, y(0))
    axes = _length_axis(x, height) + _value_axis(y, _ticks(float(counts.max())), x)
    return _svg(
        axes + bars + marks,
        width,
        height,
        f"Histogram of {histogram.inputs} input lengths with bucket ends {list(ends)}",
    )


def line_chart(series: Sequence[Series], *, label: str, width: int, height: int = 260, log: bool = False) -> str:
    """Lines over length with a legend; one point is drawn as a dot.

    Args:
        series: what to draw; values are above 0 where `log`.
        label: what the values are, for readers of the text only.
        width: in pixels.
        height: in pixels.
        log: the values' axis is logarithmic; otherwise it starts at 0.
    """
    lengths = [length for line in series for length, _ in line.points]
    values = [value for line in series for _, value in line.points]
    legend, top = _legend(series, width)
    ticks = _log_ticks(min(values), max(values)) if log else _ticks(max(values))
    x = _Scale(min(lengths) * 0.97, max(lengths) * 1.03, 52, width - 18)
    y = _Scale(ticks[0], max(ticks[-1], *values), height - _BOTTOM, top, log=log)
    drawn = []
    for line in series:
        path = " ".join(f"{x(length):.1f},{y(value):.1f}" for length, value in line.points)
        dots = [
            f'<circle class="dot {line.style}" cx="{x(length):.1f}" cy="{y(value):.1f}" r="3">'
            f"<title>{escape(line.name)}: {value:.4g} at {length:g} tokens</title></circle>"
            for length, value in line.points
        ]
        drawn += [f'<polyline class="line {line.style}" points="{path}"/>', *dots]
    parts = _length_axis(x, height) + _value_axis(y, ticks, x) + drawn + legend
    return _svg(parts, width, height, label)


def _svg(parts: Sequence[str], width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _bucket_ends(x: _Scale, ends: Sequence[int], bottom: float) -> list[str]:
    """A line where each bucket ends, and its length above, in the first of two rows that has room, if one has."""
    parts, taken = [], [0.0, 0.0]
    for end in ends:
        at, half = x(end), _CHARACTER * len(str(end)) / 2
        parts.append(f'<line class="end" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 3}" y2="{bottom:.1f}"/>')
        middle = min(at, x.end - half)
        row = next((row for row, right in enumerate(taken) if middle - half > right), None)
        if row is not None:
            taken[row] = middle + half + _CHARACTER / 2
            y = _TEXT + row * (_TEXT + 2)
            parts.append(f'<text class="end-label" x="{middle:.1f}" y="{y}" text-anchor="middle">{end}</text>')
    return parts


def _length_axis(x: _Scale, height: int) -> list[str]:
    """Doublings of the length, as many as have room, and the axis' name."""
    powers = [2**power for power in range(25) if x.low <= 2**power <= x.high]
    every = max(1, math.ceil(len(powers) * 44 / (x.end - x.start)))
    labels = [
        f'<text class="tick" x="{x(value):.1f}" y="{height - 22}" text-anchor="middle">{value}</text>'
        for value in powers[::every]
    ]
    middle = (x.start + x.end) / 2
    return [
        *labels,
        f'<text class="axis" x="{middle:.1f}" y="{height - 5}" text-anchor="middle">length in tokens</text>',
    ]


def _value_axis(y: _Scale, ticks: Sequence[float], x: _Scale) -> list[str]:
    return [
        f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{x.start - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,.4g}</text>'
        for tick in ticks
    ]


def _legend(series: Sequence[Series], width: int) -> tuple[list[str], int]:
    """The names of the lines, in columns as wide as the longest, and where the chart may begin below them."""
    column = 32 + _CHARACTER * max(len(line.name) for line in series)
    columns = max(1, (width - 60) // column)
    parts = []
    for index, line in enumerate(series):
        x, y = 52 + column * (index % columns), _TEXT + (_TEXT + 6) * (index // columns)
        parts.append(
            f'<line class="line {line.style}" x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<text class="legend" x="{x + 24}" y="{y}">{escape(line.name)}</text>'
        )
    return parts, _TEXT + (_TEXT + 6) * math.ceil(len(series) / columns)


def _ticks(highest: float) -> list[float]:
    """About four round numbers from 0 up to `highest`; up to 1 if that is 0."""
    highest = highest or 1.0
    rough = highest / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    return [step * count for count in range(math.floor(highest / step * 1.001) + 1)]


def _log_ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last at or below `lowest` to the first at or above `highest`."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    steps = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    start = max(index for index, step in enumerate(steps) if step <= lowest)
    stop = next(index for index, step in enumerate(steps) if step >= highest)
    return steps[start : max(stop, start + 1) + 1]
