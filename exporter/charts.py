"""SVG charts as text: no script, no fonts, no network; colours come from the page's CSS (light and dark).

Every mark carries a <title>, which a browser shows as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH, HEADER = 38, 22, 112, 18
PANEL_WIDTH, PANEL_HEIGHT, PANEL_GAP, PANEL_COLUMNS = 206, 92, 14, 4
BAR_HEIGHT, BAR_GAP, BAR_WIDTH, BAR_LABEL = 30, 14, 620, 150


@dataclass(frozen=True)
class Band:
    """One site's scale over the layers: lowest, middle and highest of its groups."""

    title: str
    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A stacked bar: parts in the order of the legend, in bytes."""

    label: str
    parts: Sequence[tuple[str, int]]


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[float | None]],
    strength: Callable[[float], float],
    text: Callable[[float], str],
    title: str,
) -> str:
    """A table of coloured cells; `strength` (0 to 1) of a value is how much colour it gets, None stays empty."""
    width, height = LABEL_WIDTH + CELL_WIDTH * len(columns), HEADER + CELL_HEIGHT * len(rows)
    marks = []
    for j, column in enumerate(columns):
        x = LABEL_WIDTH + CELL_WIDTH * (j + 0.5)
        marks.append(
            f'<text class="axis" x="{x}" y="{HEADER - 6}" text-anchor="middle">{escape(column)}</text>'
        )
    for i, (row, values) in enumerate(zip(rows, cells, strict=True)):
        y = HEADER + CELL_HEIGHT * i
        marks.append(
            f'<text class="label" x="{LABEL_WIDTH - 8}" y="{y + 15}" text-anchor="end">{escape(row)}</text>'
        )
        for j, value in enumerate(values):
            if value is not None:
                x, tip = LABEL_WIDTH + CELL_WIDTH * j, f"layer {columns[j]}, {row}: {text(value)}"
                marks.append(_cell(x, y, strength(value), text(value), tip))
    return _svg(width, height, title, marks)


def small_multiples(bands: Sequence[Band], title: str) -> str:
    """One small panel a site: the scale over the layers, logarithmic, each panel with its own range."""
    lines = math.ceil(len(bands) / PANEL_COLUMNS)
    width = PANEL_COLUMNS * (PANEL_WIDTH + PANEL_GAP) - PANEL_GAP
    marks = []
    for k, band in enumerate(bands):
        x = (k % PANEL_COLUMNS) * (PANEL_WIDTH + PANEL_GAP)
        y = (k // PANEL_COLUMNS) * (PANEL_HEIGHT + PANEL_GAP)
        marks.append(f'<g transform="translate({x} {y})">{_panel(band)}</g>')
    return _svg(width, lines * (PANEL_HEIGHT + PANEL_GAP), title, marks)


def stacked_bars(bars: Sequence[Bar], title: str) -> str:
    """Horizontal stacked bars on one scale, each with its total at the end."""
    longest = max(sum(size for _, size in bar.parts) for bar in bars)
    marks = []
    for i, bar in enumerate(bars):
        y, x = i * (BAR_HEIGHT + BAR_GAP), float(BAR_LABEL)
        marks.append(
            f'<text class="label" x="{BAR_LABEL - 12}" y="{y + 20}" text-anchor="end">{escape(bar.label)}</text>'
        )
        for k, (name, size) in enumerate(bar.parts):
            length = size / longest * BAR_WIDTH
            tip = f"<title>{escape(name)}: {megabytes(size)}</title>"
            marks.append(
                f'<rect class="part{k}" x="{x:.1f}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}">{tip}</rect>'
            )
            x += length
        total = megabytes(sum(size for _, size in bar.parts))
        marks.append(f'<text class="value" x="{x + 8:.1f}" y="{y + 20}">{total}</text>')
    return _svg(BAR_LABEL + BAR_WIDTH + 90, len(bars) * (BAR_HEIGHT + BAR_GAP), title, marks)


def megabytes(size: int) -> str:
    """A size for people: 10^6 bytes are 1 MB."""
    return f"{size / 1e6:.2f} MB" if size < 1e7 else f"{size / 1e6:.1f} MB"


def _cell(x: float, y: float, strength: float, text: str, tip: str) -> str:
    opacity = 0.04 + 0.9 * min(1.0, max(0.0, strength))
    shape = f'<rect class="heat" x="{x + 1}" y="{y + 1}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" rx="3"'
    label = (
        f'<text class="cell" x="{x + CELL_WIDTH / 2}" y="{y + 15}" text-anchor="middle">{escape(text)}</text>'
    )
    return f'<g><title>{escape(tip)}</title>{shape} fill-opacity="{opacity:.2f}"/>{label}</g>'


def _panel(band: Band) -> str:
    """Axis-free line with a band around it; the range stands in words."""
    low, high = min(band.low), max(band.high)
    top, bottom, left, right = 34, PANEL_HEIGHT - 8, 10, PANEL_WIDTH - 10
    span = math.log(high / low) if high > low else 1.0
    step = (right - left) / max(1, len(band.middle) - 1)

    def points(values: Sequence[float]) -> list[str]:
        heights = (bottom - (math.log(value / low) / span) * (bottom - top) for value in values)
        return [f"{left + k * step:.1f},{y:.1f}" for k, y in enumerate(heights)]

    area = " ".join(points(band.high) + points(band.low)[::-1])
    dots = "".join(
        f'<circle class="dot" cx="{point.split(",")[0]}" cy="{point.split(",")[1]}" r="2.2"><title>layer {k}: {value:.3g}</title></circle>'
        for k, (point, value) in enumerate(zip(points(band.middle), band.middle, strict=True))
    )
    return (
        f'<rect class="panel" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" rx="6"/>'
        f'<text class="label" x="10" y="18">{escape(band.title)}</text>'
        f'<text class="axis" x="{PANEL_WIDTH - 10}" y="18" text-anchor="end">{low:.2g} – {high:.2g}</text>'
        f'<polygon class="band" points="{area}"/><polyline class="line" points="{" ".join(points(band.middle))}"/>{dots}'
    )


def _svg(width: float, height: float, title: str, marks: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{escape(title, quote=True)}">'
    return f"{head}{''.join(marks)}</svg>"
